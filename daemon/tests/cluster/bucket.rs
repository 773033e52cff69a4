//! Archives in a bucket: S3 as moto plays it, which refuses what is not signed well. For a konsulctl with object stores, as
//! `cargo test --workspace --all-features` builds it.

use crate::backup::export;
use crate::moto::Moto;
use crate::support::ctl::konsulctl;
use crate::support::{Cluster, Node};
use konsul_api::archive::{OfflineRestoreAnswer, VerifyAnswer};
use rand::{RngCore, SeedableRng};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::{Command, Output};

const WHERE: &str = "s3://backups/konsul/production";

/// What the script prints once it serves.
#[derive(Debug, Deserialize)]
struct S3 {
    endpoint: String,
    access_key_id: String,
    secret_access_key: String,
}

struct Bucket {
    cluster: Cluster,
    moto: Moto<S3>,
}

impl Bucket {
    fn start() -> Bucket {
        let (cluster, moto) = (Cluster::start(3), Moto::<S3>::start(include_str!("s3.py")));
        let S3 { access_key_id, secret_access_key, .. } = &moto.told;
        let keys =
            format!("[default]\naws_access_key_id = {access_key_id}\naws_secret_access_key = {secret_access_key}\n");
        std::fs::write(cluster.dir.join("keys"), keys).unwrap();
        Bucket { cluster, moto }
    }

    /// `konsulctl`, in the directory of the cluster, with the keys of a file.
    fn run(&self, node: &Node, line: &str) -> Output {
        let mut command = Command::new(konsulctl());
        command.current_dir(&self.cluster.dir).args(line.split(' ')).arg("--json");
        command
            .env("KONSUL_HTTP_ADDR", format!("http://{}", node.http))
            .env("AWS_ENDPOINT_URL", &self.moto.told.endpoint);
        command.env("AWS_SHARED_CREDENTIALS_FILE", "keys").env_remove("AWS_ACCESS_KEY_ID").output().unwrap()
    }

    fn ctl<T: serde::de::DeserializeOwned>(&self, node: &Node, line: &str) -> T {
        let output = self.run(node, line);
        assert!(output.status.success(), "konsulctl {line}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Ends with this code, and says this.
    fn fails(&self, line: &str, code: i32, says: &str) {
        let output = self.run(&self.cluster.nodes[0], line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(code) && said.contains(says),
            "konsulctl {line}: {:?}: {said}",
            output.status
        );
    }

    /// Key and size of all that is there.
    fn objects(&mut self) -> BTreeMap<String, u64> {
        serde_json::from_str(&self.moto.say("list")).unwrap()
    }
}

#[test]
fn all_hosts_are_lost_and_the_cluster_comes_back_from_an_encrypted_archive_in_a_bucket() {
    let mut bucket = Bucket::start();
    let put = |bucket: &Bucket, key: &str| {
        assert!(bucket.cluster.nodes[0].client().put(key, "", b"value").unwrap().is_true());
    };
    (0..50).for_each(|n| put(&bucket, &format!("kept/{n:03}")));
    let keygen = Command::new("age-keygen").args(["-o", "key.txt"]).current_dir(&bucket.cluster.dir).output().unwrap();
    let told = String::from_utf8(keygen.stderr).unwrap();
    let recipient = told.trim().rsplit(' ').next().unwrap();
    let (before, leader) = (export(&bucket.cluster.nodes[0], "kept/"), bucket.cluster.leader());

    // A timer on every node: one of them saves.
    let line = format!("snapshot save --scheduled --report --recipient {recipient} --to {WHERE}");
    for (n, node) in bucket.cluster.nodes.iter().enumerate() {
        let told: Value = bucket.ctl(node, &line);
        assert_eq!(told.get("skipped").is_none(), n == leader, "{told}");
    }
    let objects = bucket.objects();
    assert_eq!(objects.len(), 1, "{objects:?}");
    let archive = format!("s3://backups/{}", objects.keys().next().unwrap());
    assert!(archive.starts_with(WHERE) && archive.ends_with(".kbs.age"), "{archive}");

    let listed: Vec<Value> = bucket.ctl(&bucket.cluster.nodes[0], &format!("snapshot list {WHERE}"));
    assert_eq!((listed.len(), listed[0]["file"].as_str()), (1, Some(archive.as_str())));
    bucket.fails(&format!("snapshot verify {archive}"), 3, "--identity FILE");
    bucket.fails("snapshot verify s3://backups/konsul/none.kbs", 1, "s3://backups/konsul/none.kbs is not there");
    bucket.fails("snapshot list s3://nobody/konsul", 1, "s3://nobody/konsul");
    let rehearsal = format!("snapshot verify --scheduled --report --identity key.txt --newest {WHERE}");
    for (n, node) in bucket.cluster.nodes.iter().enumerate() {
        let told: Value = bucket.ctl(node, &rehearsal);
        assert_eq!(told.get("skipped").is_none(), n == leader, "{told}");
    }

    let last = &bucket.cluster.nodes[0];
    let cluster_id = last.status().unwrap().cluster_id;
    bucket.cluster.nodes.iter().for_each(Node::kill9);
    bucket.cluster.nodes.iter().for_each(Node::wipe);
    let config = last.config.to_str().unwrap();
    let line = format!("snapshot restore {archive} --empty-host --identity key.txt --config {config}");
    let restored: OfflineRestoreAnswer = bucket.ctl(last, &line);
    assert_eq!(restored.cluster_id, cluster_id);
    bucket.cluster.nodes.iter().for_each(Node::start);
    bucket.cluster.wait_healthy();
    bucket.cluster.assert_digests_equal();
    for node in &bucket.cluster.nodes {
        assert_eq!(export(node, "kept/"), before, "{}", node.name);
    }
}

#[test]
fn archives_of_any_size_are_kept_in_a_bucket_and_thinned_out() {
    let mut bucket = Bucket::start();
    let node = &bucket.cluster.nodes[0];
    // Nothing that can be packed: more than one request takes.
    let mut noise = rand::rngs::SmallRng::seed_from_u64(7);
    for n in 0..80 {
        let mut value = vec![0; 500_000];
        noise.fill_bytes(&mut value);
        assert!(node.client().put(&format!("noise/{n}"), "", &value).unwrap().is_true());
    }
    let saved: Value = bucket.ctl(node, &format!("snapshot save --to {WHERE}"));
    let file = saved["file"].as_str().unwrap();
    assert!(saved["bytes"].as_u64().unwrap() > 32 << 20, "{saved}");
    let verified: VerifyAnswer = bucket.ctl(node, &format!("snapshot verify {file}"));
    assert_eq!(saved["digest"].as_str(), Some(verified.digest.as_str()));

    assert!(node.client().put("later", "", b"value").unwrap().is_true());
    let later: Value = bucket.ctl(node, &format!("snapshot save --to {WHERE}"));
    let fates: Vec<Value> = bucket.ctl(node, &format!("snapshot prune {WHERE} --keep-last 1 --dry-run"));
    assert_eq!((fates.len(), bucket.objects().len()), (2, 2));
    let node = &bucket.cluster.nodes[0];
    let _fates: Vec<Value> = bucket.ctl(node, &format!("snapshot prune {WHERE} --keep-last 1"));
    let left = bucket.objects();
    let left: Vec<String> = left.keys().map(|key| format!("s3://backups/{key}")).collect();
    assert_eq!(left, [later["file"].as_str().unwrap()]);
}
