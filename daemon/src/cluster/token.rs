//! What a join token proves. Its text is in `konsul_api::token`, because konsulctl reads and makes tokens too.
//!
//! The secret is the seed of an Ed25519 key pair. The cluster keeps the public key only, so nothing that is stored or
//! backed up lets anybody join; and the secret never travels: whoever holds it signs what both ends of one TLS
//! connection know and no other connection has. With a bootstrap token, where nobody can know the other side by a
//! certificate, both sides prove the secret.  Knows nothing about: whether a token is still good.

pub use konsul_api::token::{BOOTSTRAP_NODES_MAX, BadToken, CONTACTS_MAX, Purpose, Token, TokenId, is_contact};

use konsul_api::token::RANDOM_BYTES;
use ring::rand::SecureRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

const SEED_CONTEXT: &[u8] = b"konsul join v1";
const PROOF_CONTEXT: &[u8] = b"konsul join proof v1";

/// The label under which both ends of a TLS connection derive the bytes that a proof is bound to.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-konsul-join";
/// How many such bytes.
pub const EXPORTER_BYTES: usize = 32;
/// Length of a proof.
pub const PROOF_BYTES: usize = 64;

/// Who signs a proof: what one side signed must not do for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    /// The node that wants something.
    Asker,
    /// The node that grants it; only where both prove, with a bootstrap token.
    Answerer,
}

/// What a proof is bound to.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'a> {
    /// From this TLS connection, by [`EXPORTER_LABEL`].
    pub exporter: &'a [u8; EXPORTER_BYTES],
    /// The request, without the proof.
    pub request: &'a [u8],
}

/// The operating system gave no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random numbers")]
pub struct NoRandomness;

/// A proof that the other side does not hold the secret, or not on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the proof does not fit the token, the request and this connection")]
pub struct BadProof;

/// A fresh token. The caller checked the contact points and, for a bootstrap token, the number of nodes.
pub fn generate(purpose: Purpose, contacts: Vec<String>, random: &dyn SecureRandom) -> Result<Token, NoRandomness> {
    let mut bytes = [0; RANDOM_BYTES];
    random.fill(&mut bytes).map_err(|_unspecified| NoRandomness)?;
    Ok(Token::from_random(purpose, contacts, &bytes))
}

/// The public key that the token's secret proves: what the cluster keeps.
pub fn public_key(token: &Token) -> [u8; 32] {
    key_pair(token).public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes")
}

/// Proves the secret, to the other end of this connection only and for this request only.
pub fn prove(token: &Token, signer: Signer, bound: Bound<'_>) -> [u8; PROOF_BYTES] {
    let signature = key_pair(token).sign(&signed(signer, bound));
    signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
}

fn key_pair(token: &Token) -> Ed25519KeyPair {
    let seed = Sha256::new().chain_update(SEED_CONTEXT).chain_update(token.secret()).finalize();
    Ed25519KeyPair::from_seed_unchecked(&seed).expect("a seed has 32 bytes")
}

/// Whether the other end of this connection holds the secret that belongs to this public key.
pub fn verify_proof(public_key: &[u8; 32], signer: Signer, bound: Bound<'_>, proof: &[u8]) -> Result<(), BadProof> {
    let key = UnparsedPublicKey::new(&ED25519, public_key);
    key.verify(&signed(signer, bound), proof).map_err(|_unspecified| BadProof)
}

/// What is signed. Every part has a fixed length, so no two meanings have the same bytes.
fn signed(signer: Signer, bound: Bound<'_>) -> Vec<u8> {
    let signer = match signer {
        Signer::Asker => 1,
        Signer::Answerer => 2,
    };
    let request: [u8; 32] = Sha256::digest(bound.request).into();
    [PROOF_CONTEXT, &[signer], bound.exporter, &request].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;

    const PIN: [u8; 32] = [7; 32];
    const EXPORTER: [u8; 32] = [3; 32];

    fn bound<'a>(exporter: &'a [u8; 32], request: &'a [u8]) -> Bound<'a> {
        Bound { exporter, request }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Clusters keep these keys, and nodes of other versions check these proofs.
    #[test]
    fn keys_and_proofs_of_version_1_are_what_they_were() {
        let token = Token::from_random(Purpose::Join { pin: PIN }, Vec::new(), &[9; RANDOM_BYTES]);
        assert_eq!(hex(&public_key(&token)), "6f99f77c1b640bbe4761c885ece175856776726f096df0e3fe120eff2e6662ae");
        let proof = prove(&token, Signer::Asker, bound(&EXPORTER, b"request"));
        assert_eq!(hex(&Sha256::digest(proof)), "42b7a0467951bd025637f30296bc780c1acec7c05e8a7915391ba6a2b250ce0e");
    }

    #[test]
    fn a_proof_is_good_for_its_signer_its_connection_and_its_request_only() {
        let random = SystemRandom::new();
        let token = generate(Purpose::Join { pin: PIN }, Vec::new(), &random).unwrap();
        let other = generate(Purpose::Join { pin: PIN }, Vec::new(), &random).unwrap();
        let (key, here) = (public_key(&token), bound(&EXPORTER, b"request"));
        let proof = prove(&token, Signer::Asker, here);
        assert_eq!(verify_proof(&key, Signer::Asker, here, &proof), Ok(()));
        let refused = [
            verify_proof(&key, Signer::Answerer, here, &proof),
            verify_proof(&key, Signer::Asker, bound(&[4; 32], b"request"), &proof),
            verify_proof(&key, Signer::Asker, bound(&EXPORTER, b"request "), &proof),
            verify_proof(&public_key(&other), Signer::Asker, here, &proof),
            verify_proof(&key, Signer::Asker, here, &proof[1..]),
            verify_proof(&key, Signer::Asker, here, b""),
            verify_proof(&[0xff; 32], Signer::Asker, here, &proof),
        ];
        assert_eq!(refused, [Err(BadProof); 7]);
    }

    #[test]
    fn no_two_tokens_are_alike() {
        let random = SystemRandom::new();
        let token = || generate(Purpose::Bootstrap { nodes: 3 }, Vec::new(), &random).unwrap();
        let tokens: Vec<Token> = (0..64).map(|_| token()).collect();
        for (at, token) in tokens.iter().enumerate() {
            assert!(tokens[..at].iter().all(|other| other.id() != token.id() && other.secret() != token.secret()));
        }
    }
}
