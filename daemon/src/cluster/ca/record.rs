//! What the replicated state holds of the authority: certificates, the sealed key of each, and how far a rotation is.
//!
//! Kept under the key [`KEY`] with compare-and-set: two leaders cannot both change it. Nothing in it is secret without
//! the sealing key, which is not in it.

use super::sealing::SealingKeyId;
use konsul_state::{DecodeError, Reader, Writer};
use rustls::pki_types::CertificateDer;

/// The record's key in the replicated state.
pub const KEY: &str = "ca";
const VERSION: u8 = 1;

/// What an authority is for right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Signs.
    Active,
    /// Will sign as soon as everybody trusts it.
    Next,
    /// Signs no more; trusted until nobody uses a certificate of it.
    Retiring,
}

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Counts up from 1.
    pub number: u64,
    pub stage: Stage,
    pub certificate: CertificateDer<'static>,
    /// The private key, sealed, bound to the cluster and the certificate.
    pub sealed_key: Vec<u8>,
    pub sealing_key: SealingKeyId,
    /// The way from the authority before this one, for those who know only that.
    pub bridge: Option<Bridge>,
}

/// An authority and what it signed for its successor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    pub predecessor: CertificateDer<'static>,
    /// The successor's key, signed by the predecessor.
    pub crossed: CertificateDer<'static>,
}

/// All authorities of a cluster: one signs, and while they change a second one is trusted beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaRecord {
    generations: Vec<Generation>,
}

/// A step of a rotation that is not due.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    #[error(
        "a rotation is under way already: authority {number} is {stage:?}; wait for its end, or see `konsulctl ca status`"
    )]
    UnderWay { number: u64, stage: Stage },
    #[error("no authority waits to become the active one")]
    NothingNext,
}

impl CaRecord {
    /// Of a new cluster.
    pub fn founded(first: Generation) -> CaRecord {
        assert_eq!(first.stage, Stage::Active, "the first authority signs");
        CaRecord { generations: vec![first] }
    }

    /// The one that signs.
    pub fn active(&self) -> &Generation {
        self.of(Stage::Active).expect("no record is made or decoded without it")
    }

    /// The one in this stage, if there is one; there are never two.
    pub fn of(&self, stage: Stage) -> Option<&Generation> {
        self.generations.iter().find(|generation| generation.stage == stage)
    }

    /// All of them, oldest first.
    pub fn generations(&self) -> &[Generation] {
        &self.generations
    }

    /// The authorities to trust.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.generations.iter().map(|generation| generation.certificate.clone()).collect()
    }

    /// What leads a joiner from an older authority to the one that signs.
    pub fn bridges(&self) -> Vec<CertificateDer<'static>> {
        let bridges = self.active().bridge.iter();
        bridges.flat_map(|bridge| [bridge.crossed.clone(), bridge.predecessor.clone()]).collect()
    }

    /// The number of the authority after the newest.
    pub fn next_number(&self) -> u64 {
        self.generations.iter().map(|generation| generation.number).max().unwrap_or(0) + 1
    }

    /// Begins a rotation.
    pub fn with_next(&self, next: Generation) -> Result<CaRecord, RotationError> {
        assert_eq!(next.stage, Stage::Next, "it does not sign yet");
        if let Some(other) = self.generations.iter().find(|generation| generation.stage != Stage::Active) {
            return Err(RotationError::UnderWay { number: other.number, stage: other.stage });
        }
        let mut generations = self.generations.clone();
        generations.push(next);
        Ok(CaRecord { generations })
    }

    /// The next one signs from now on, the old one is only trusted.
    pub fn with_next_active(&self) -> Result<CaRecord, RotationError> {
        self.of(Stage::Next).ok_or(RotationError::NothingNext)?;
        let mut generations = self.generations.clone();
        for generation in &mut generations {
            generation.stage = match generation.stage {
                Stage::Active | Stage::Retiring => Stage::Retiring,
                Stage::Next => Stage::Active,
            };
        }
        Ok(CaRecord { generations })
    }

    /// Only the one that signs is left: the end of a rotation, or, before the next one signed, its abortion.
    pub fn settled(&self) -> CaRecord {
        CaRecord { generations: vec![self.active().clone()] }
    }

    /// No rotation is under way.
    pub fn is_settled(&self) -> bool {
        self.generations.len() == 1
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION);
        out.usize(self.generations.len());
        for generation in &self.generations {
            let Generation { number, stage, certificate, sealed_key, sealing_key, bridge } = generation;
            out.u64(*number);
            out.u8(match stage {
                Stage::Active => 1,
                Stage::Next => 2,
                Stage::Retiring => 3,
            });
            out.bytes(certificate);
            out.bytes(sealed_key);
            out.raw(&sealing_key.0);
            out.bool(bridge.is_some());
            if let Some(Bridge { predecessor, crossed }) = bridge {
                out.bytes(predecessor);
                out.bytes(crossed);
            }
        }
        out.into_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<CaRecord, DecodeError> {
        let mut from = Reader::new(bytes);
        from.version("version of the authority's record", VERSION)?;
        let generations = from.list("authorities", generation)?;
        from.end("the authority's record")?;
        let count = |stage| generations.iter().filter(|generation| generation.stage == stage).count();
        if count(Stage::Active) != 1 || count(Stage::Next) > 1 || count(Stage::Retiring) > 1 {
            return Err(DecodeError::Invalid { what: "stages of the authorities" });
        }
        Ok(CaRecord { generations })
    }
}

fn generation(from: &mut Reader<'_>) -> Result<Generation, DecodeError> {
    let certificate = |from: &mut Reader<'_>, what| from.bytes(what).map(|bytes| CertificateDer::from(bytes.to_vec()));
    Ok(Generation {
        number: from.u64("authority number")?,
        stage: match from.u8("stage")? {
            1 => Stage::Active,
            2 => Stage::Next,
            3 => Stage::Retiring,
            found => return Err(DecodeError::Unknown { what: "stage", found: found.into(), known: 3 }),
        },
        certificate: certificate(from, "authority certificate")?,
        sealed_key: from.bytes("sealed key")?.to_vec(),
        sealing_key: SealingKeyId(from.array("sealing key id")?),
        bridge: match from.bool("bridge")? {
            true => Some(Bridge {
                predecessor: certificate(from, "preceding authority")?,
                crossed: certificate(from, "cross certificate")?,
            }),
            false => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mangled::survive;

    fn generation(number: u64, stage: Stage) -> Generation {
        let bridge = (number > 1).then(|| Bridge {
            predecessor: CertificateDer::from(vec![9; 3]),
            crossed: CertificateDer::from(vec![8; 2]),
        });
        let (certificate, sealed_key) = (CertificateDer::from(vec![7; 4]), vec![6; 5]);
        Generation { number, stage, certificate, sealed_key, sealing_key: SealingKeyId([5; 8]), bridge }
    }

    fn stages(record: &CaRecord) -> Vec<(u64, Stage)> {
        record.generations().iter().map(|generation| (generation.number, generation.stage)).collect()
    }

    #[test]
    fn a_rotation_has_one_signer_at_every_moment() {
        let first = CaRecord::founded(generation(1, Stage::Active));
        assert_eq!((first.is_settled(), first.next_number()), (true, 2));
        assert_eq!(first.with_next_active(), Err(RotationError::NothingNext));
        let both = first.with_next(generation(2, Stage::Next)).unwrap();
        assert_eq!(stages(&both), [(1, Stage::Active), (2, Stage::Next)]);
        let again = both.with_next(generation(3, Stage::Next));
        assert_eq!(again, Err(RotationError::UnderWay { number: 2, stage: Stage::Next }));
        assert_eq!(stages(&both.settled()), [(1, Stage::Active)], "given up before it signed");
        let turned = both.with_next_active().unwrap();
        assert_eq!(stages(&turned), [(1, Stage::Retiring), (2, Stage::Active)]);
        assert_eq!((turned.roots().len(), turned.bridges().len()), (2, 2));
        assert!(turned.with_next(generation(3, Stage::Next)).is_err());
        assert_eq!(stages(&turned.settled()), [(2, Stage::Active)]);
    }

    #[test]
    fn records_survive_the_log_and_the_first_version_is_read_for_ever() {
        let record = CaRecord::founded(generation(1, Stage::Active)).with_next(generation(2, Stage::Next)).unwrap();
        assert_eq!(CaRecord::decode(&record.encode()), Ok(record));
        let first: Vec<u8> = [[1, 1, 1, 1, 4].as_slice(), &[7; 4], &[5], &[6; 5], &[5; 8], &[0]].concat();
        assert_eq!(CaRecord::decode(&first), Ok(CaRecord::founded(generation(1, Stage::Active))));
    }

    #[test]
    fn a_record_that_cannot_be_is_refused() {
        let good = CaRecord::founded(generation(1, Stage::Active)).encode();
        for at in 0..good.len() {
            assert!(CaRecord::decode(&good[..at]).is_err(), "cut at {at}");
        }
        assert!(CaRecord::decode(&[good.as_slice(), &[0]].concat()).is_err());
        for stages in [vec![], vec![Stage::Next], vec![Stage::Active, Stage::Active]] {
            let record = CaRecord { generations: (1..).zip(stages).map(|(n, stage)| generation(n, stage)).collect() };
            assert!(CaRecord::decode(&record.encode()).is_err(), "{record:?}");
        }
    }

    #[test]
    fn a_mangled_record_is_refused_without_a_panic() {
        let record = CaRecord::founded(generation(1, Stage::Active)).with_next(generation(2, Stage::Next)).unwrap();
        survive(&[record.encode()], |bytes| drop(CaRecord::decode(bytes)));
    }
}
