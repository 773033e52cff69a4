//! Where a node keeps who it is: `tls/node.pem`, `tls/node.key` and `tls/ca.pem` in its data directory.
//!
//! Each file is replaced as a whole, and the three fit together after a crash at any moment: while a certificate is
//! replaced the key file holds the new key before the old one, and whoever loads takes the one that fits.

use crate::cluster::ca::{CaError, CaRecord, Stage, new_key};
use crate::durable::{self, DurableError};
use crate::tls::{Facts, Material, NotX509};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use konsul_state::DecodeError;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use std::io;
use std::path::{Path, PathBuf};

/// An identity that cannot be kept or found again.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not PEM; put it back from where it was changed, or remove the directory and join anew")]
    NotPem {
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error("{path} holds no certificate; put it back, or remove the directory and join anew")]
    Empty { path: PathBuf },
    #[error("{path}")]
    NotX509 {
        path: PathBuf,
        #[source]
        source: NotX509,
    },
    #[error(
        "{path} holds no key that fits the certificate beside it; put it back, or remove the directory and join anew"
    )]
    NoKey { path: PathBuf },
    #[error("{path} is no key that this node can join with; remove it")]
    Key {
        path: PathBuf,
        #[source]
        source: rcgen::Error,
    },
    #[error("make a key to join with")]
    NewKey(#[source] CaError),
    #[error("{path} is no record of an authority")]
    Record {
        path: PathBuf,
        #[source]
        source: DecodeError,
    },
    #[error("keep this node's identity")]
    Write(#[source] DurableError),
}

/// The identity files of one node.
#[derive(Debug, Clone)]
pub struct IdentityFiles {
    dir: PathBuf,
}

impl IdentityFiles {
    /// Below this data directory.
    pub fn in_data_dir(data_dir: &Path) -> IdentityFiles {
        IdentityFiles { dir: data_dir.join("tls") }
    }

    fn chain(&self) -> PathBuf {
        self.dir.join("node.pem")
    }

    fn key(&self) -> PathBuf {
        self.dir.join("node.key")
    }

    fn roots(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The key of a node that is about to join.
    fn joining(&self) -> PathBuf {
        self.dir.join("joining.key")
    }

    /// The record of an authority that was made and is not in the replicated state yet. Its key is sealed.
    fn founding(&self) -> PathBuf {
        self.dir.join("founding.ca")
    }

    /// Who this node is; `None` if it was never told. Whether the certificate is still valid is for the caller to look.
    pub fn load(&self) -> Result<Option<Material>, IdentityError> {
        let Some(chain) = read(&self.chain())? else { return Ok(None) };
        let chain = certificates(&self.chain(), &chain)?;
        let roots_path = self.roots();
        let roots = read(&roots_path)?.ok_or_else(|| IdentityError::Empty { path: roots_path.clone() })?;
        let roots = certificates(&roots_path, &roots)?;
        let leaf = Facts::of(&chain[0]).map_err(|source| IdentityError::NotX509 { path: self.chain(), source })?;
        let path = self.key();
        let keys = read(&path)?.unwrap_or_default();
        let keys = PrivateKeyDer::pem_slice_iter(&keys).collect::<Result<Vec<_>, _>>();
        let keys = keys.map_err(|source| IdentityError::NotPem { path: path.clone(), source })?;
        let key = keys.into_iter().find(|key| fits(key, &leaf)).ok_or(IdentityError::NoKey { path })?;
        Ok(Some(Material { chain, key, roots, bridges: Vec::new() }))
    }

    /// From now on this node is this.
    pub fn store(&self, material: &Material) -> Result<(), IdentityError> {
        durable::create_dir_all(&self.dir).map_err(IdentityError::Write)?;
        self.store_roots(&material.roots)?;
        let new = pem("PRIVATE KEY", material.key.secret_der());
        let old = read(&self.key())?.unwrap_or_default();
        let both = [new.as_bytes(), &old].concat();
        durable::write(&self.key(), &both).map_err(IdentityError::Write)?;
        durable::write(&self.chain(), pem_all(&material.chain).as_bytes()).map_err(IdentityError::Write)?;
        durable::write(&self.key(), new.as_bytes()).map_err(IdentityError::Write)
    }

    /// This node is nobody any more: its id went with its data, and joining makes it another.
    pub fn remove(&self) -> Result<(), IdentityError> {
        let all = [self.chain(), self.key(), self.roots(), self.founding(), self.joining()];
        for path in all.iter().filter(|path| path.exists()) {
            durable::remove(path).map_err(IdentityError::Write)?;
        }
        Ok(())
    }

    /// From now on this node believes these authorities.
    pub fn store_roots(&self, roots: &[CertificateDer<'static>]) -> Result<(), IdentityError> {
        durable::write(&self.roots(), pem_all(roots).as_bytes()).map_err(IdentityError::Write)
    }

    /// The key to join with, made if there is none: after a crash the node asks with the same one again, and so gets what
    /// it was granted and did not hear of.
    pub fn joining_key(&self) -> Result<KeyPair, IdentityError> {
        let path = self.joining();
        if let Some(bytes) = read(&path)? {
            let key = PrivateKeyDer::from_pem_slice(&bytes);
            let key = key.map_err(|source| IdentityError::NotPem { path: path.clone(), source })?;
            return KeyPair::try_from(&key).map_err(|source| IdentityError::Key { path, source });
        }
        let key = new_key().map_err(IdentityError::NewKey)?;
        durable::create_dir_all(&self.dir).map_err(IdentityError::Write)?;
        let text = pem("PRIVATE KEY", key.serialized_der());
        durable::write(&path, text.as_bytes()).map_err(IdentityError::Write)?;
        Ok(key)
    }

    /// The node is a member, and knows it for good.
    pub fn remove_joining_key(&self) -> Result<(), IdentityError> {
        durable::remove(&self.joining()).map(drop).map_err(IdentityError::Write)
    }

    /// Keeps a new authority's record until the replicated state has it.
    pub fn store_founding(&self, record: &CaRecord) -> Result<(), IdentityError> {
        assert_eq!(record.active().stage, Stage::Active, "a record has one that signs");
        durable::create_dir_all(&self.dir).map_err(IdentityError::Write)?;
        durable::write(&self.founding(), &record.encode()).map_err(IdentityError::Write)
    }

    /// The record that is not in the replicated state yet, if so.
    pub fn load_founding(&self) -> Result<Option<CaRecord>, IdentityError> {
        let path = self.founding();
        let Some(bytes) = read(&path)? else { return Ok(None) };
        CaRecord::decode(&bytes).map(Some).map_err(|source| IdentityError::Record { path, source })
    }

    /// The replicated state has it.
    pub fn remove_founding(&self) -> Result<(), IdentityError> {
        durable::remove(&self.founding()).map(drop).map_err(IdentityError::Write)
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::Read { path: path.to_owned(), source }),
    }
}

/// At least one.
fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|source| IdentityError::NotPem { path: path.to_owned(), source })?;
    if found.is_empty() {
        return Err(IdentityError::Empty { path: path.to_owned() });
    }
    Ok(found)
}

fn fits(key: &PrivateKeyDer<'_>, leaf: &Facts) -> bool {
    let public = KeyPair::try_from(key).map(|key| Sha256::digest(key.subject_public_key_info()));
    public.is_ok_and(|hash| hash.as_slice() == leaf.spki_sha256)
}

fn pem_all(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect()
}

/// RFC 7468: base64 in lines of 64.
fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ca::{Ca, SealingKey, Subject, Term, request};
    use crate::tls::MemberId;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    fn material(ca: &Ca) -> Material {
        let (key, csr) = request().unwrap();
        let subject = Subject { member: MemberId { cluster_id: [7; 16], node_id: 1 }, name: "n1".to_owned() };
        let term = Term { now_ms: 1_800_000_000_000, life: Duration::from_secs(3600) };
        let chain = vec![ca.issue(&csr, &subject, term).unwrap()];
        Material { chain, key: key.into(), roots: vec![ca.certificate().clone()], bridges: Vec::new() }
    }

    fn same(a: &Material, b: &Material) -> bool {
        a.chain == b.chain && a.key.secret_der() == b.key.secret_der() && a.roots == b.roots
    }

    #[test]
    fn an_identity_is_found_as_it_was_kept_and_its_key_is_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        let files = IdentityFiles::in_data_dir(dir.path());
        assert!(files.load().unwrap().is_none());
        let ca = Ca::create([7; 16], 1_800_000_000_000).unwrap();
        for _ in 0..2 {
            let kept = material(&ca);
            files.store(&kept).unwrap();
            assert!(same(&files.load().unwrap().unwrap(), &kept));
        }
        let other = IdentityFiles::in_data_dir(&dir.path().join("other"));
        other.store(&material(&ca)).unwrap();
        other.remove().unwrap();
        assert!(other.load().unwrap().is_none());
        let mode = std::fs::metadata(files.key()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let keys = std::fs::read_to_string(files.key()).unwrap();
        assert_eq!(keys.matches("BEGIN PRIVATE KEY").count(), 1, "the old key is gone");
    }

    #[test]
    fn a_crash_between_the_files_leaves_the_old_identity_or_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let files = IdentityFiles::in_data_dir(dir.path());
        let ca = Ca::create([7; 16], 1_800_000_000_000).unwrap();
        let (old, new) = (material(&ca), material(&ca));
        files.store(&old).unwrap();
        // As `store` leaves them after its second and its third step.
        let both = pem("PRIVATE KEY", new.key.secret_der()) + &pem("PRIVATE KEY", old.key.secret_der());
        std::fs::write(files.key(), both).unwrap();
        assert!(same(&files.load().unwrap().unwrap(), &old));
        std::fs::write(files.chain(), pem_all(&new.chain)).unwrap();
        assert!(same(&files.load().unwrap().unwrap(), &new));
        files.store(&old).unwrap();
        assert!(same(&files.load().unwrap().unwrap(), &old));
    }

    #[test]
    fn files_that_do_not_fit_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = IdentityFiles::in_data_dir(dir.path());
        let ca = Ca::create([7; 16], 1_800_000_000_000).unwrap();
        files.store(&material(&ca)).unwrap();
        std::fs::write(files.key(), pem("PRIVATE KEY", material(&ca).key.secret_der())).unwrap();
        let error = files.load().unwrap_err();
        assert!(matches!(error, IdentityError::NoKey { .. }) && error.to_string().contains("node.key"), "{error}");
        std::fs::write(files.roots(), "").unwrap();
        assert!(matches!(files.load(), Err(IdentityError::Empty { .. })));
        std::fs::write(files.chain(), "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
        assert!(matches!(files.load(), Err(IdentityError::NotPem { .. })));
    }

    #[test]
    fn a_node_joins_with_the_same_key_until_it_is_a_member() {
        let dir = tempfile::tempdir().unwrap();
        let files = IdentityFiles::in_data_dir(dir.path());
        let key = files.joining_key().unwrap();
        assert_eq!(files.joining_key().unwrap().serialized_der(), key.serialized_der());
        let mode = std::fs::metadata(files.joining()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        files.remove_joining_key().unwrap();
        files.remove_joining_key().unwrap();
        assert_ne!(files.joining_key().unwrap().serialized_der(), key.serialized_der());
    }

    #[test]
    fn a_founding_record_waits_until_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let files = IdentityFiles::in_data_dir(dir.path());
        assert_eq!(files.load_founding().unwrap(), None);
        let ca = Ca::create([7; 16], 1_800_000_000_000).unwrap();
        let sealed = ca.seal([7; 16], (1, Stage::Active), &SealingKey::create().unwrap(), None).unwrap();
        let record = CaRecord::founded(sealed);
        files.store_founding(&record).unwrap();
        assert_eq!(files.load_founding().unwrap(), Some(record));
        files.remove_founding().unwrap();
        files.remove_founding().unwrap();
        assert_eq!(files.load_founding().unwrap(), None);
    }
}
