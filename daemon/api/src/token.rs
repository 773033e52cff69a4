//! Join tokens as people copy them: the text, and what is wrong with one. What the secret proves is the daemon's.
//!
//! ```text
//! konsul-join-v1.<id>.<secret>.<pin>.<checksum>[@host:port,…]
//! konsul-bootstrap-v1.<id>.<nodes>.<secret>.<checksum>[@host:port,…]
//! ```
//!
//! The pin is the SHA-256 of the public key (SPKI) of the cluster's authority, so that a joiner knows the cluster before
//! it trusts it. A bootstrap token has none: there is no cluster yet. The checksum covers what stands before it; contact
//! points may be added and removed by hand.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use std::fmt;

const JOIN: &str = "konsul-join-v1";
const BOOTSTRAP: &str = "konsul-bootstrap-v1";
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const ID_BYTES: usize = 5;
/// How long the secret is.
pub const SECRET_BYTES: usize = 20;
/// How many random bytes make a token.
pub const RANDOM_BYTES: usize = ID_BYTES + SECRET_BYTES;
const SECRET_CHARS: usize = 32;
const PIN_CHARS: usize = 43;
const CHECKSUM_CHARS: usize = 4;
/// Most nodes that may form a cluster with one bootstrap token: as many as may vote.
pub const BOOTSTRAP_NODES_MAX: u32 = 15;
/// Most contact points in a token.
pub const CONTACTS_MAX: usize = 16;

/// The token's name among people: eight characters of `a-z2-7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId([u8; 8]);

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Joining the cluster whose authority has a key with this SHA-256.
    Join {
        /// SHA-256 of the SPKI.
        pin: [u8; 32],
    },
    /// Forming a cluster of this many fresh nodes.
    Bootstrap {
        /// How many.
        nodes: u32,
    },
}

/// 160 bits that nobody guesses. Shown to nobody: the whole token is what people copy.
#[derive(Clone, PartialEq, Eq)]
struct Secret([u8; SECRET_BYTES]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A token, with its secret: there is no `Display`, so that none is logged by accident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    id: TokenId,
    purpose: Purpose,
    secret: Secret,
    contacts: Vec<String>,
}

/// A text that is no token. The messages never repeat it: it may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BadToken {
    #[error("the token is empty; make one with `konsulctl cluster generate-token`")]
    Empty,
    #[error(
        "this is no token: it does not begin with `{JOIN}.` or `{BOOTSTRAP}.`; copy the whole line that \
         `konsulctl cluster generate-token` printed"
    )]
    NoToken,
    #[error("this is a token of a newer version, {version}; upgrade this program, or make a token on an older one")]
    Newer { version: String },
    #[error("the token has {found} parts between its dots, not {expected}: it was cut off, or something was added")]
    Parts { found: usize, expected: usize },
    #[error("a character of the token is wrong, missing or too many: its checksum does not fit; copy it again")]
    Checksum,
    #[error("the token's {part} is not {expected}; make a new token")]
    Part { part: &'static str, expected: &'static str },
    #[error("the token's contact point `{contact}` is no host:port; write it behind the @, as in @10.0.0.1:8300")]
    Contact { contact: String },
    #[error("the token has {found} contact points, at most {CONTACTS_MAX} are taken")]
    Contacts { found: usize },
}

impl TokenId {
    /// As the state keeps it.
    pub fn bytes(self) -> [u8; 8] {
        self.0
    }

    /// The id in a text, if it is one.
    pub fn parse(text: &str) -> Option<TokenId> {
        let bytes: [u8; 8] = text.as_bytes().try_into().ok()?;
        bytes.iter().all(|byte| BASE32.contains(byte)).then_some(TokenId(bytes))
    }

    /// As people see it.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("made of base32 characters only")
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Token {
    /// A fresh token of random bytes. The caller checked the contact points and, for a bootstrap token, the number of
    /// nodes.
    pub fn from_random(purpose: Purpose, contacts: Vec<String>, random: &[u8; RANDOM_BYTES]) -> Token {
        let (id, secret) = random.split_at(ID_BYTES);
        let id = base32(id).as_bytes().try_into().expect("five bytes are eight characters");
        let secret = Secret(secret.try_into().expect("split there"));
        Token { id: TokenId(id), purpose, secret, contacts }
    }

    /// Reads what [`Token::render`] wrote; blanks around it do not matter.
    pub fn parse(text: &str) -> Result<Token, BadToken> {
        let text = text.trim();
        let (body, contacts) = match text.split_once('@') {
            Some((body, contacts)) => (body, parse_contacts(contacts)?),
            None => (text, Vec::new()),
        };
        let parts: Vec<&str> = body.split('.').collect();
        let [kind, fields @ .., checksum] = parts.as_slice() else {
            return Err(if body.is_empty() { BadToken::Empty } else { BadToken::NoToken });
        };
        check_kind(kind)?;
        let [id, second, third] = fields else {
            return Err(BadToken::Parts { found: parts.len(), expected: 5 });
        };
        let covered = &body[..body.len() - checksum.len() - 1];
        if *checksum != checksum_of(covered) {
            return Err(BadToken::Checksum);
        }
        let id = TokenId::parse(id).ok_or(BadToken::Part { part: "id", expected: "8 characters of a-z and 2-7" })?;
        let (purpose, secret) = if *kind == JOIN {
            (Purpose::Join { pin: parse_pin(third)? }, second)
        } else {
            (Purpose::Bootstrap { nodes: parse_nodes(second)? }, third)
        };
        Ok(Token { id, purpose, secret: parse_secret(secret)?, contacts })
    }

    /// The token as people copy it. It holds the secret: print it for whoever asked for it, and nowhere else.
    pub fn render(&self) -> String {
        let secret = base32(&self.secret.0);
        let covered = match self.purpose {
            Purpose::Join { pin } => format!("{JOIN}.{}.{secret}.{}", self.id, URL_SAFE_NO_PAD.encode(pin)),
            Purpose::Bootstrap { nodes } => format!("{BOOTSTRAP}.{}.{nodes}.{secret}", self.id),
        };
        let at = if self.contacts.is_empty() { String::new() } else { format!("@{}", self.contacts.join(",")) };
        format!("{covered}.{}{at}", checksum_of(&covered))
    }

    /// Its name among people.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// What it is for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Where nodes of the cluster listen, as far as the token says; `host:port`.
    pub fn contacts(&self) -> &[String] {
        &self.contacts
    }

    /// What whoever holds the token can prove. Never to be sent, stored or printed.
    pub fn secret(&self) -> &[u8; SECRET_BYTES] {
        &self.secret.0
    }
}

fn check_kind(kind: &str) -> Result<(), BadToken> {
    if kind == JOIN || kind == BOOTSTRAP {
        return Ok(());
    }
    let family = [JOIN, BOOTSTRAP].map(|known| known.trim_end_matches(|c: char| c.is_ascii_digit()));
    let version = family.iter().find_map(|family| kind.strip_prefix(family));
    match version.filter(|v| !v.is_empty() && v.len() <= 4 && v.bytes().all(|b| b.is_ascii_digit())) {
        Some(version) => Err(BadToken::Newer { version: format!("v{version}") }),
        None => Err(BadToken::NoToken),
    }
}

fn parse_pin(text: &str) -> Result<[u8; 32], BadToken> {
    let bad = BadToken::Part { part: "pin", expected: "43 characters of base64url" };
    if text.len() != PIN_CHARS {
        return Err(bad);
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(bad)
}

fn parse_nodes(text: &str) -> Result<u32, BadToken> {
    let nodes = text.parse().ok().filter(|nodes| (1..=BOOTSTRAP_NODES_MAX).contains(nodes));
    nodes.ok_or(BadToken::Part { part: "number of nodes", expected: "1 to 15" })
}

fn parse_secret(text: &str) -> Result<Secret, BadToken> {
    let bad = BadToken::Part { part: "secret", expected: "32 characters of a-z and 2-7" };
    if text.len() != SECRET_CHARS {
        return Err(bad);
    }
    let bytes = from_base32(text).ok_or_else(|| bad.clone())?;
    bytes.try_into().map(Secret).map_err(|_other_length| bad)
}

fn parse_contacts(text: &str) -> Result<Vec<String>, BadToken> {
    let contacts: Vec<String> = text.split(',').map(|contact| contact.trim().to_owned()).collect();
    if contacts.len() > CONTACTS_MAX {
        return Err(BadToken::Contacts { found: contacts.len() });
    }
    match contacts.iter().find(|contact| !is_contact(contact)) {
        Some(contact) => Err(BadToken::Contact { contact: contact.clone() }),
        None => Ok(contacts),
    }
}

/// Whether this can be a contact point of a token: `host:port`.
pub fn is_contact(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')),
    };
    host_fits && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Against slips of the hand, not of somebody's will: twenty bits.
fn checksum_of(covered: &str) -> String {
    let mut text = base32(&Sha256::digest(covered)[..5]);
    text.truncate(CHECKSUM_CHARS);
    text
}

/// Five bytes to eight characters; `bytes` is a multiple of five.
fn base32(bytes: &[u8]) -> String {
    debug_assert!(bytes.len().is_multiple_of(5), "{} bytes", bytes.len());
    let mut text = String::with_capacity(bytes.len() / 5 * 8);
    for five in bytes.chunks_exact(5) {
        let bits = five.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        for shift in (0..8).rev().map(|n| n * 5) {
            let digit = usize::try_from(bits >> shift & 31).expect("five bits");
            text.push(char::from(BASE32[digit]));
        }
    }
    text
}

/// The opposite of [`base32`]; only its own characters, only whole groups of eight.
fn from_base32(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(8) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 8 * 5);
    for eight in text.as_bytes().chunks_exact(8) {
        let mut bits = 0u64;
        for char in eight {
            let digit = BASE32.iter().position(|c| c == char)?;
            bits = bits << 5 | u64::try_from(digit).expect("five bits");
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[3..]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: [u8; 32] = [7; 32];

    fn join_token() -> Token {
        Token {
            id: TokenId(*b"abcdefg2"),
            purpose: Purpose::Join { pin: PIN },
            secret: Secret(*b"0123456789abcdefghij"),
            contacts: vec!["10.0.0.1:8300".to_owned(), "[::1]:8300".to_owned(), "n3.example.net:8300".to_owned()],
        }
    }

    fn bootstrap_token() -> Token {
        Token { purpose: Purpose::Bootstrap { nodes: 3 }, contacts: Vec::new(), ..join_token() }
    }

    /// These texts are in people's hands.
    #[test]
    fn tokens_of_version_1_are_written_and_read_as_ever() {
        let table = [
            (
                join_token(),
                "konsul-join-v1.abcdefg2.gaytemzugu3doobzmfrggzdfmztwq2lk.BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc.zkek@10.0.0.1:8300,[::1]:8300,n3.example.net:8300",
            ),
            (bootstrap_token(), "konsul-bootstrap-v1.abcdefg2.3.gaytemzugu3doobzmfrggzdfmztwq2lk.ccy6"),
        ];
        for (token, text) in table {
            assert_eq!(token.render(), text);
            assert_eq!(Token::parse(&format!(" \t{text}\n")).as_ref(), Ok(&token));
        }
    }

    #[test]
    fn random_bytes_make_a_token_that_reads_as_it_was_written() {
        let random: [u8; RANDOM_BYTES] = std::array::from_fn(|n| u8::try_from(n * 9).unwrap());
        for purpose in [Purpose::Join { pin: PIN }, Purpose::Bootstrap { nodes: 5 }] {
            let token = Token::from_random(purpose, vec!["h:1".to_owned()], &random);
            assert_eq!(token.secret()[..], random[5..]);
            assert_eq!(Token::parse(&token.render()), Ok(token));
        }
    }

    #[test]
    fn a_slip_of_the_hand_is_noticed() {
        let text = bootstrap_token().render();
        for at in 0..text.len() {
            for byte in 0x21u8..0x7f {
                let mut changed = text.clone().into_bytes();
                changed[at] = byte;
                let changed = String::from_utf8(changed).unwrap();
                assert!(changed == text || Token::parse(&changed).is_err(), "{changed}");
            }
        }
    }

    #[test]
    fn a_token_shows_its_secret_to_nobody_but_its_reader() {
        let token = join_token();
        assert!(!format!("{token:?}").contains("gayt") && !format!("{token:?}").contains("0123456789"));
        let cut = &token.render()[..60];
        assert!(!Token::parse(cut).unwrap_err().to_string().contains("gayt"));
    }

    #[test]
    fn what_is_wrong_with_a_token_is_said() {
        let good = join_token().render();
        let body = good.split('@').next().unwrap();
        let sealed = |covered: &str| format!("{covered}.{}", checksum_of(covered));
        let part = |part, expected| BadToken::Part { part, expected };
        let (id, secret, pin) =
            ("abcdefg2", "gaytemzugu3doobzmfrggzdfmztwq2lk", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc");
        let secret_expected = "32 characters of a-z and 2-7";
        let table = [
            (String::new(), BadToken::Empty),
            (" \n".to_owned(), BadToken::Empty),
            ("hello".to_owned(), BadToken::NoToken),
            ("-----BEGIN CERTIFICATE-----".to_owned(), BadToken::NoToken),
            (format!("konsul-token-v1.{id}.{secret}.{pin}.aaaa"), BadToken::NoToken),
            (format!("konsul-join-v2.{id}.{secret}.aaaa"), BadToken::Newer { version: "v2".to_owned() }),
            (format!("konsul-bootstrap-v11.{id}.aaaa"), BadToken::Newer { version: "v11".to_owned() }),
            (format!("{JOIN}.{id}.{secret}"), BadToken::Parts { found: 3, expected: 5 }),
            (format!("{body}.more"), BadToken::Parts { found: 6, expected: 5 }),
            (body[..body.len() - 1].to_owned(), BadToken::Checksum),
            (format!("{body}x"), BadToken::Checksum),
            (body.replacen("gayt", "gayx", 1), BadToken::Checksum),
            (sealed(&format!("{JOIN}.ABCDEFG2.{secret}.{pin}")), part("id", "8 characters of a-z and 2-7")),
            (sealed(&format!("{JOIN}.{id}.{}.{pin}", &secret[8..])), part("secret", secret_expected)),
            (sealed(&format!("{JOIN}.{id}.{}.{pin}", secret.replace('g', "1"))), part("secret", secret_expected)),
            (sealed(&format!("{JOIN}.{id}.{secret}.{}", &pin[1..])), part("pin", "43 characters of base64url")),
            (
                sealed(&format!("{JOIN}.{id}.{secret}.{}", pin.replace('H', "*"))),
                part("pin", "43 characters of base64url"),
            ),
            (sealed(&format!("{BOOTSTRAP}.{id}.0.{secret}")), part("number of nodes", "1 to 15")),
            (sealed(&format!("{BOOTSTRAP}.{id}.16.{secret}")), part("number of nodes", "1 to 15")),
            (sealed(&format!("{BOOTSTRAP}.{id}.x.{secret}")), part("number of nodes", "1 to 15")),
            (format!("{body}@"), BadToken::Contact { contact: String::new() }),
            (format!("{body}@h:1,h"), BadToken::Contact { contact: "h".to_owned() }),
            (format!("{body}@h:0"), BadToken::Contact { contact: "h:0".to_owned() }),
            (format!("{body}@::1:8300"), BadToken::Contact { contact: "::1:8300".to_owned() }),
            (format!("{body}@{}", ["h:1"; 17].join(",")), BadToken::Contacts { found: 17 }),
        ];
        for (text, why) in table {
            assert_eq!(Token::parse(&text), Err(why), "{text}");
        }
    }
}
