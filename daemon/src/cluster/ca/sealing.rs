//! The key that the authority's key is sealed under: in a file of each voter, never in the replicated state.
//!
//! The file is text, so that a person or a credential store can provide it: lines
//! `konsul-sealing-key-v1 <64 hex digits>`, the newest last. What starts with `#` is a comment.

use crate::durable::{self, DurableError};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// First word of each line of the file.
const MARK: &str = "konsul-sealing-key-v1";
/// Format of what is sealed: version, nonce, ciphertext with its tag.
const SEALED_VERSION: u8 = 1;

/// Which sealing key: tells nothing about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SealingKeyId(pub [u8; 8]);

impl fmt::Display for SealingKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SealingKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A secret of the voters.
#[derive(Clone, PartialEq, Eq)]
pub struct SealingKey([u8; 32]);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id())
    }
}

/// Why something is not sealed or unsealed.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    #[error("this host gives no random numbers")]
    NoRandom,
    #[error(
        "the authority's key cannot be unsealed with sealing key {id}: the record was changed, or is another cluster's"
    )]
    NotUnsealed { id: SealingKeyId },
    #[error("read the sealing keys {path}; check that the file exists and that this process may read it")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} line {line} is no sealing key; a line is `{MARK}` and 64 hex digits")]
    Malformed { path: PathBuf, line: usize },
    #[error("{path} holds no sealing key; put a line `{MARK}` and 64 hex digits into it")]
    Empty { path: PathBuf },
    #[error("keep the sealing keys")]
    Write(#[source] DurableError),
    #[error(
        "the sealing keys are kept outside of Konsul, in {path}: a new one cannot be added there; add a line to it"
    )]
    External { path: PathBuf },
}

impl SealingKey {
    /// A new one.
    pub fn create() -> Result<SealingKey, SealingError> {
        random().map(SealingKey)
    }

    /// As it is sent to another voter.
    pub fn from_bytes(bytes: [u8; 32]) -> SealingKey {
        SealingKey(bytes)
    }

    /// As it is sent to another voter. Never to be logged or stored elsewhere.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// Which one this is.
    pub fn id(&self) -> SealingKeyId {
        let hash = Sha256::new().chain_update(b"konsul sealing key id v1").chain_update(self.0).finalize();
        SealingKeyId(hash[..8].try_into().expect("a SHA-256 has 32 bytes"))
    }

    /// Seals; `bound_to` has to be the same again to unseal.
    pub fn seal(&self, secret: &[u8], bound_to: &[u8]) -> Result<Vec<u8>, SealingError> {
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut body = secret.to_vec();
        let sealed =
            self.cipher().seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound_to), &mut body);
        sealed.expect("far shorter than the cipher's limit");
        let mut out = vec![SEALED_VERSION];
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&body);
        Ok(out)
    }

    /// Unseals what [`SealingKey::seal`] gave.
    pub fn unseal(&self, sealed: &[u8], bound_to: &[u8]) -> Result<Vec<u8>, SealingError> {
        let not_unsealed = || SealingError::NotUnsealed { id: self.id() };
        let (version, rest) = sealed.split_first().ok_or_else(not_unsealed)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(not_unsealed)?;
        if *version != SEALED_VERSION {
            return Err(not_unsealed());
        }
        let mut body = body.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.cipher().open_in_place(nonce, Aad::from(bound_to), &mut body);
        opened.map(|secret| secret.to_vec()).map_err(|_| not_unsealed())
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &self.0).expect("32 bytes are this cipher's key"))
    }
}

fn random<const N: usize>() -> Result<[u8; N], SealingError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| SealingError::NoRandom)?;
    Ok(bytes)
}

/// The sealing keys of this node, as they lie in their file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealingKeys {
    path: PathBuf,
    /// Somebody else keeps the file: it is read only.
    external: bool,
    /// The newest last.
    keys: Vec<SealingKey>,
}

impl SealingKeys {
    /// In the data directory; none yet is fine.
    pub fn in_data_dir(data_dir: &Path) -> Result<SealingKeys, SealingError> {
        let path = data_dir.join("secrets").join("sealing.key");
        let keys = match std::fs::read_to_string(&path) {
            Ok(text) => parse(&path, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(SealingError::Read { path, source }),
        };
        Ok(SealingKeys { path, external: false, keys })
    }

    /// In a file that somebody else provides: it holds one key at least.
    pub fn external(path: &Path) -> Result<SealingKeys, SealingError> {
        let path = path.to_owned();
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|source| SealingError::Read { path: path.clone(), source })?;
        let keys = parse(&path, &text)?;
        if keys.is_empty() {
            return Err(SealingError::Empty { path });
        }
        Ok(SealingKeys { path, external: true, keys })
    }

    /// Somebody else provides the keys.
    pub fn is_external(&self) -> bool {
        self.external
    }

    /// Where they lie.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key with this id, if this node has it.
    pub fn find(&self, id: SealingKeyId) -> Option<&SealingKey> {
        self.keys.iter().find(|key| key.id() == id)
    }

    /// Which keys this node has.
    pub fn ids(&self) -> Vec<SealingKeyId> {
        self.keys.iter().map(SealingKey::id).collect()
    }

    /// What new authorities are sealed under.
    pub fn newest(&self) -> Option<&SealingKey> {
        self.keys.last()
    }

    /// Keeps one more key, durably. The directory is readable by its owner only.
    pub fn add(&mut self, key: SealingKey) -> Result<(), SealingError> {
        if self.find(key.id()).is_some() {
            return Ok(());
        }
        if self.external {
            return Err(SealingError::External { path: self.path.clone() });
        }
        let mut keys = self.keys.clone();
        keys.push(key);
        self.keep(keys)
    }

    fn keep(&mut self, keys: Vec<SealingKey>) -> Result<(), SealingError> {
        let dir = self.path.parent().expect("it was made from a directory and a name");
        durable::create_dir_all(dir).map_err(SealingError::Write)?;
        durable::write(&self.path, render(&keys).as_bytes()).map_err(SealingError::Write)?;
        self.keys = keys;
        Ok(())
    }
}

fn render(keys: &[SealingKey]) -> String {
    let mut text = String::from(
        "# Whoever has this and a copy of the cluster's data can issue certificates. Keep it apart from backups.\n",
    );
    for key in keys {
        text.push_str(MARK);
        text.push(' ');
        key.0.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a String takes everything"));
        text.push('\n');
    }
    text
}

fn parse(path: &Path, text: &str) -> Result<Vec<SealingKey>, SealingError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let keys = lines.map(|(at, line)| {
        let malformed = || SealingError::Malformed { path: path.to_owned(), line: at + 1 };
        let hex = line.strip_prefix(MARK).ok_or_else(malformed)?.trim();
        parse_hex(hex).map(SealingKey).ok_or_else(malformed)
    });
    keys.collect()
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let text = Some(text).filter(|text| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_sealed_opens_with_its_key_for_its_purpose_and_unchanged_only() {
        let (key, other) = (SealingKey::create().unwrap(), SealingKey::create().unwrap());
        let sealed = key.seal(b"secret", b"cluster").unwrap();
        assert_eq!(key.unseal(&sealed, b"cluster").unwrap(), b"secret");
        assert!(other.unseal(&sealed, b"cluster").is_err());
        assert!(key.unseal(&sealed, b"another cluster").is_err());
        assert_ne!(sealed, key.seal(b"secret", b"cluster").unwrap(), "a nonce is used once");
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(key.unseal(&damaged, b"cluster").is_err(), "byte {at}");
            assert!(key.unseal(&sealed[..at], b"cluster").is_err(), "cut at {at}");
        }
    }

    #[test]
    fn what_was_sealed_by_the_first_version_still_opens() {
        let key = SealingKey::from_bytes(std::array::from_fn(|at| u8::try_from(at).unwrap()));
        assert_eq!(key.id().to_string(), FIXTURE_ID);
        let sealed: Vec<u8> =
            (0..FIXTURE.len() / 2).map(|at| u8::from_str_radix(&FIXTURE[2 * at..2 * at + 2], 16).unwrap()).collect();
        assert_eq!(key.unseal(&sealed, b"cluster").unwrap(), b"secret");
    }

    const FIXTURE_ID: &str = "a543dc54100fc292";
    const FIXTURE: &str = "01000102030405060708090a0bfa9e6b724c63abe66bd5402efae3aca2780e1bb28644";

    #[test]
    fn keys_are_kept_for_their_owner_only_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut keys = SealingKeys::in_data_dir(dir.path()).unwrap();
        assert_eq!(keys.newest(), None);
        let (first, second) = (SealingKey::create().unwrap(), SealingKey::create().unwrap());
        keys.add(first.clone()).unwrap();
        keys.add(second.clone()).unwrap();
        keys.add(first.clone()).unwrap();
        let mode = std::fs::metadata(keys.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = SealingKeys::in_data_dir(dir.path()).unwrap();
        assert_eq!((again.find(first.id()), again.newest()), (Some(&first), Some(&second)));
        assert_eq!(again.ids(), [first.id(), second.id()]);
        assert!(!format!("{again:?}").contains(&format!("{:?}", second.0)), "debug output tells no secret");
    }

    #[test]
    fn keys_of_somebody_else_are_read_and_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credential");
        assert!(matches!(SealingKeys::external(&path), Err(SealingError::Read { .. })));
        std::fs::write(&path, "# nothing\n\n").unwrap();
        assert!(matches!(SealingKeys::external(&path), Err(SealingError::Empty { .. })));
        std::fs::write(&path, format!("{MARK} {}\n{MARK} zz\n", "ab".repeat(32))).unwrap();
        assert!(matches!(SealingKeys::external(&path), Err(SealingError::Malformed { line: 2, .. })));
        std::fs::write(&path, format!("{MARK} {}\n", "ab".repeat(32))).unwrap();
        let mut keys = SealingKeys::external(&path).unwrap();
        assert_eq!(keys.newest(), Some(&SealingKey([0xab; 32])));
        assert!(matches!(keys.add(SealingKey::create().unwrap()), Err(SealingError::External { .. })));
    }
}
