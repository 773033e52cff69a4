//! Instances of EC2 by their tags, from a server that checks signatures.

use crate::Seeker;
use crate::moto::Moto;
use konsuld::cluster::discovery::{AwsConfig, AwsEnvironment, DiscoveryConfig, Method};
use serde::Deserialize;

/// What the script prints once it serves.
#[derive(Debug, Deserialize)]
struct Ec2 {
    endpoint: String,
    access_key_id: String,
    secret_access_key: String,
    /// Of the running instances with the tag konsul=production.
    production: Vec<String>,
    /// Of those with the tag konsul and any value.
    any: Vec<String>,
}

fn config(moto: &Moto<Ec2>, tag_value: Option<&str>, secret: &str) -> DiscoveryConfig {
    let environment = AwsEnvironment {
        access_key_id: Some(moto.told.access_key_id.clone()),
        secret_access_key: Some(secret.into()),
        ..AwsEnvironment::default()
    };
    let aws = AwsConfig {
        region: Some("eu-west-1".into()),
        tag_key: "konsul".into(),
        tag_value: tag_value.map(Into::into),
        endpoint: Some(moto.told.endpoint.clone()),
        port: 8300,
        environment,
    };
    DiscoveryConfig { aws: Some(aws), ..DiscoveryConfig::default() }
}

fn points(addresses: &[String]) -> Vec<String> {
    let mut points: Vec<String> = addresses.iter().map(|address| format!("{address}:8300")).collect();
    points.sort();
    points
}

// One server for all of it: it takes seconds to start.
#[tokio::test]
async fn running_instances_with_the_tag_are_found_with_a_good_signature_only() {
    let mut moto: Moto<Ec2> = Moto::start(include_str!("ec2.py"));
    let secret = moto.told.secret_access_key.clone();
    assert_eq!((moto.told.production.len(), moto.told.any.len()), (3, 4));

    let node = Seeker::new(&config(&moto, Some("production"), &secret));
    assert_eq!(node.round().await, points(&moto.told.production));
    assert!(node.discovery.last().iter().all(|point| point.source == Method::Aws));
    let any_value = Seeker::new(&config(&moto, None, &secret));
    assert_eq!(any_value.round().await, points(&moto.told.any));

    let forger = Seeker::new(&config(&moto, Some("production"), "not the secret"));
    assert_eq!(forger.round().await, [""; 0]);
    let (method, why) = forger.discovery.failing().remove(0);
    assert!(method == Method::Aws && why.contains("refused with 40"), "{why}");

    // Those with the tag konsul=production; one with another value stays.
    assert_eq!(moto.say("stop"), "stopped");
    let later = Seeker::new(&config(&moto, Some("production"), &secret));
    assert_eq!(later.round().await, [""; 0]);
    assert_eq!(later.discovery.failing(), Vec::new(), "that there is nobody is an answer");
}
