//! What is made restores to the same state; what was changed by one bit, or cut, is never taken for good.

use super::*;
use crate::raft_types::{CommittedLeaderId, LogId, NodeInfo, StoredMembership};
use crate::storage::codec;
use konsul_state::{Command, Index, KvWrite, Writer};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

const SEED: u64 = 0x6b6f_6e73_756c;

/// A state with keys, a cluster, and a position.
fn state(dir: &Path, keys: u64) -> Scratch {
    let scratch = Scratch::make(dir).unwrap();
    let mut batch = scratch.store().batch().unwrap();
    let encoded = |command: &Command<'_>| {
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        bytes
    };
    batch.apply(Index::new(1), &encoded(&Command::Form { cluster_id: [7; 16], version: 1 })).unwrap();
    for n in 0..keys {
        let (key, value) = (format!("key/{n:05}"), format!("value {n} {}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let set = KvWrite::Set { key: key.as_bytes(), value: value.as_bytes(), flags: n };
        batch.apply(Index::new(2 + n), &encoded(&Command::Kv(set))).unwrap();
    }
    let last = LogId::new(CommittedLeaderId { term: 3, node_id: 1 }, 1 + keys);
    let node = NodeInfo { name: "n1".to_owned(), rpc: "h:8300".to_owned(), http: String::new() };
    let members = crate::raft_types::Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, node)])).unwrap();
    let (mut id, mut membership) = (Writer::new(), Writer::new());
    codec::put_log_id(&mut id, &last);
    codec::put_stored_membership(&mut membership, &StoredMembership::new(Some(last), members));
    batch.set_position(Index::new(last.index), &id.into_vec(), Some(&membership.into_vec())).unwrap();
    batch.commit().unwrap();
    scratch
}

fn empty_file(path: &Path) -> File {
    fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap()
}

/// The bytes of an archive of that state.
fn archived(dir: &Path, state: &Scratch) -> (Header, Vec<u8>) {
    let maker = Maker { cluster_id: [7; 16], epoch: 2, node: "n1".to_owned(), now_ms: 1_800_000_000_000 };
    let content = empty_file(&dir.join("content"));
    let mut made = make(&state.store().view().unwrap(), maker, content).unwrap();
    let (announced, mut bytes) = (made.bytes(), made.head.clone());
    made.content.read_to_end(&mut bytes).unwrap();
    assert_eq!(wide(bytes.len()), announced);
    assert_eq!(made.sha256, <[u8; SUM_BYTES]>::from(Sha256::digest(&bytes)));
    (made.header, bytes)
}

fn opened(dir: &Path, bytes: &[u8]) -> Result<Archive, ArchiveError> {
    let path = dir.join("archive");
    fs::write(&path, bytes).unwrap();
    Archive::open(File::open(path).unwrap())
}

fn verified(dir: &Path, bytes: &[u8]) -> Result<Digest, ArchiveError> {
    Ok(opened(dir, bytes)?.restore_on_trial(dir)?.digest)
}

#[test]
fn an_archive_restores_to_the_state_it_was_made_of_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (work, of) = (dir.path().join("work"), dir.path().join("of"));
    fs::create_dir(&work).unwrap();
    fs::create_dir(&of).unwrap();
    let state = state(&of, 1000);
    let (header, bytes) = archived(dir.path(), &state);
    let digest = state.store().view().unwrap().digest().unwrap();
    let mut archive = opened(dir.path(), &bytes).unwrap();
    assert_eq!((&archive.header, archive.sha256), (&header, Sha256::digest(&bytes).into()));
    assert_eq!((header.digest, header.keys, header.last.index, header.epoch), (digest, 1000, 1001, 2));
    assert_eq!(header.members, [Member { id: 1, name: "n1".to_owned(), rpc: "h:8300".to_owned(), voter: true }]);
    let restored = archive.restore_on_trial(&work).unwrap();
    let view = restored.store().view().unwrap();
    assert_eq!((restored.digest, view.digest().unwrap()), (digest, digest));
    assert_eq!(view.kv_get(b"key/00999").unwrap().0.unwrap().flags, 999);
    drop((view, restored));
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0);
}

#[test]
fn a_thousand_flipped_bits_and_cuts_are_all_found_and_called_damage() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), 300);
    let (_, bytes) = archived(dir.path(), &state);
    verified(dir.path(), &bytes).unwrap();
    let mut rng = StdRng::seed_from_u64(SEED);
    for round in 0..1000 {
        let mut changed = bytes.clone();
        let what = if round % 2 == 0 {
            let (at, bit) = (rng.random_range(0..bytes.len()), rng.random_range(0..8));
            changed[at] ^= 1 << bit;
            format!("bit {bit} of byte {at}")
        } else {
            let at = rng.random_range(0..bytes.len());
            changed.truncate(at);
            format!("cut to {at} bytes")
        };
        match verified(dir.path(), &changed) {
            Ok(_) => panic!("{what} of {} was not found (seed {SEED:#x})", bytes.len()),
            Err(error) => assert_eq!(error.fault(), ArchiveFault::Damaged, "{what} (seed {SEED:#x}): {error}"),
        }
    }
    // Each bit of the head, which is short and holds what everything else is compared with.
    for at in 0..bytes.len() - 1 - usize::try_from(opened(dir.path(), &bytes).unwrap().header.content_bytes).unwrap() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        assert_eq!(verified(dir.path(), &changed).unwrap_err().fault(), ArchiveFault::Damaged, "byte {at}");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert_eq!(verified(dir.path(), &longer).unwrap_err().fault(), ArchiveFault::Damaged);
}

#[test]
fn an_archive_of_a_newer_version_is_told_from_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), 3);
    let (header, bytes) = archived(dir.path(), &state);
    let mut newer = bytes.clone();
    newer[8] = FORMAT + 1;
    assert!(matches!(opened(dir.path(), &newer).unwrap_err(), ArchiveError::Damaged { .. }));
    let header_bytes = header.encode().len();
    let sum: [u8; 32] = Sha256::digest(&newer[..FIXED_BYTES + header_bytes]).into();
    newer[FIXED_BYTES + header_bytes..][..SUM_BYTES].copy_from_slice(&sum);
    let error = opened(dir.path(), &newer).unwrap_err();
    assert!(matches!(error, ArchiveError::Format { found: 2 }), "{error}");
    assert_eq!(error.fault(), ArchiveFault::Unsupported);
}

#[test]
fn a_header_that_was_forged_with_a_right_hash_is_found_by_the_trial() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), 50);
    let (header, bytes) = archived(dir.path(), &state);
    let content = &bytes[bytes.len() - usize::try_from(header.content_bytes).unwrap()..];
    let forgeries = [
        ("digest", Header { digest: Digest([1; 32]), ..header.clone() }),
        ("index", Header { last: nowhere(), ..header.clone() }),
        ("cluster", Header { cluster_id: [8; 16], ..header.clone() }),
        ("keys", Header { keys: 51, ..header.clone() }),
        ("follows", Header { records: header.records - 1, ..header.clone() }),
        ("unpacked", Header { records: header.records + 1, ..header.clone() }),
    ];
    for (what, forged) in forgeries {
        let error = verified(dir.path(), &[&head(&forged).0, content].concat()).unwrap_err();
        assert_eq!(error.fault(), ArchiveFault::Damaged);
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
}
