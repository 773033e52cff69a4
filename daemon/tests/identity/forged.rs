//! Tokens that no cluster made.

use konsuld::cluster::token::{self, Purpose, Token};
use sha2::Digest as _;

pub(crate) fn made_up(purpose: Purpose) -> Token {
    token::generate(purpose, Vec::new(), &ring::rand::SystemRandom::new()).unwrap()
}

/// The secret of one token under the name of another.
pub(crate) fn guessed(real: &Token) -> Token {
    let purpose = real.purpose();
    let (real, other) = (real.render(), made_up(purpose).render());
    let parts = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (mut real, other) = (parts(&real), parts(&other));
    real[2] = other[2].clone();
    let covered = real[..4].join(".");
    // The checksum is for typing errors, not a secret: whoever guesses computes it.
    let hash = sha2::Sha256::digest(&covered);
    let bits = u32::from_be_bytes([0, hash[0], hash[1], hash[2]]) >> 4;
    let char_at = |at: u32| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[(bits >> (15 - 5 * at) & 31) as usize]);
    let checksum: String = (0..4).map(char_at).collect();
    Token::parse(&format!("{covered}.{checksum}")).unwrap()
}
