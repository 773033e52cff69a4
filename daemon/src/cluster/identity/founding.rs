//! The first node of a cluster makes its authority, and its own certificate by it.

use super::files::{IdentityError, IdentityFiles};
use crate::cluster::ca::{self, Ca, CaError, CaRecord, SealingError, SealingKey, SealingKeys, Stage, Subject, Term};
use crate::tls::Material;

/// An authority that was not made.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    #[error("make the authority of the new cluster")]
    Ca(#[from] CaError),
    #[error("make its sealing key")]
    Sealing(#[from] SealingError),
    #[error("keep it")]
    Keep(#[from] IdentityError),
}

/// Makes the authority of a new cluster and the certificate of its first node. When this returns, all of it is on disk:
/// the sealing key, the sealed authority (until the replicated state has it, see [`super::Keeper`]) and the identity.
/// Done again after a crash, it begins anew.
pub fn found(
    files: &IdentityFiles,
    keys: &mut SealingKeys,
    first: &Subject,
    term: Term,
) -> Result<Material, FoundError> {
    let cluster_id = first.member.cluster_id;
    let sealing_key = match keys.newest() {
        Some(newest) => newest.clone(),
        None => {
            let fresh = SealingKey::create()?;
            keys.add(fresh.clone())?;
            fresh
        }
    };
    let authority = Ca::create(cluster_id, term.now_ms)?;
    let record = CaRecord::founded(authority.seal(cluster_id, (1, Stage::Active), &sealing_key, None)?);
    let (key, csr) = ca::request()?;
    let chain = vec![authority.issue(&csr, first, term)?];
    let material = Material { chain, key: key.into(), roots: record.roots(), bridges: Vec::new() };
    files.store_founding(&record)?;
    files.store(&material)?;
    Ok(material)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{Facts, MemberId};
    use std::time::Duration;

    #[test]
    fn a_founder_has_all_it_needs_on_disk_and_no_key_of_the_authority_in_the_clear() {
        let dir = tempfile::tempdir().unwrap();
        let files = IdentityFiles::in_data_dir(dir.path());
        let mut keys = SealingKeys::in_data_dir(dir.path()).unwrap();
        let first = Subject { member: MemberId { cluster_id: [7; 16], node_id: 1 }, name: "n1".to_owned() };
        let term = Term { now_ms: 1_800_000_000_000, life: Duration::from_secs(3600) };
        let made = found(&files, &mut keys, &first, term).unwrap();
        let record = files.load_founding().unwrap().unwrap();
        let keys = SealingKeys::in_data_dir(dir.path()).unwrap();
        let sealing_key = keys.find(record.active().sealing_key).unwrap();
        let ca = Ca::unseal([7; 16], record.active(), sealing_key).unwrap();
        let kept = files.load().unwrap().unwrap();
        assert_eq!((&kept.chain, &kept.roots), (&made.chain, &vec![ca.certificate().clone()]));
        let issuer = Facts::of(&kept.chain[0]).unwrap().issuer_key_id;
        assert_eq!(issuer, Facts::of(ca.certificate()).unwrap().key_id);
    }
}
