//! What a member tells of its state and its program, and what the leader tells it after a comparison of states.

use crate::storage::Taken;
use konsul_state::{DecodeError, Digest, Index, Reader, Writer};

/// What a member tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// Version of its program.
    pub program: String,
    /// The cluster versions that its program understands.
    pub versions: (u32, u32),
    /// At the newest check point that it applied since its start.
    pub taken: Option<Taken>,
    pub standing: Soundness,
}

/// Whether a member's state is that of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Soundness {
    /// As far as anybody knows.
    Sound,
    /// It is not: the node is fenced.
    Fenced,
    /// The node is fenced, was restarted since, and wants to know whether it still has to be.
    Asks,
}

/// What a majority of the voters holds at a check point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) at: Taken,
    /// So many voters hold it,
    pub(super) agree: u64,
    /// of so many.
    pub(super) voters: u64,
}

/// What became of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The check point.
    pub index: Index,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// What a majority of the voters holds; `None`: no digest has a majority.
    pub agreed: Option<Digest>,
    pub members: Vec<Compared>,
}

/// One member in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    pub id: u64,
    pub name: String,
    pub voter: bool,
    /// What it holds, or why that is not known.
    pub digest: Result<Digest, String>,
    /// It is fenced, after this comparison.
    pub fenced: bool,
}

fn put_taken(out: &mut Writer, taken: &Taken) {
    out.u64(taken.index.get());
    out.raw(&taken.digest.0);
}

fn taken(from: &mut Reader<'_>) -> Result<Taken, DecodeError> {
    Ok(Taken { index: Index::new(from.u64("check point")?), digest: Digest(from.array("digest")?) })
}

fn optional<T>(
    from: &mut Reader<'_>,
    what: &'static str,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    from.bool(what)?.then(|| read(from)).transpose()
}

impl Soundness {
    fn byte(self) -> u8 {
        match self {
            Soundness::Sound => 0,
            Soundness::Fenced => 1,
            Soundness::Asks => 2,
        }
    }

    fn from_byte(byte: u8) -> Result<Soundness, DecodeError> {
        Ok(match byte {
            0 => Soundness::Sound,
            1 => Soundness::Fenced,
            2 => Soundness::Asks,
            found => return Err(DecodeError::Unknown { what: "soundness", found: found.into(), known: 2 }),
        })
    }

    pub fn is_fenced(self) -> bool {
        match self {
            Soundness::Sound => false,
            Soundness::Fenced | Soundness::Asks => true,
        }
    }
}

impl Examined {
    pub(super) fn put(&self, out: &mut Writer) {
        out.str(&self.program);
        out.u64(u64::from(self.versions.0));
        out.u64(u64::from(self.versions.1));
        out.bool(self.taken.is_some());
        self.taken.iter().for_each(|at| put_taken(out, at));
        out.u8(self.standing.byte());
    }

    /// What follows the known fields is a newer version's: it is not read.
    pub(super) fn read(from: &mut Reader<'_>) -> Result<Examined, DecodeError> {
        Ok(Examined {
            program: from.str("program version")?.to_owned(),
            versions: (from.u32("oldest cluster version")?, from.u32("newest cluster version")?),
            taken: optional(from, "digest", taken)?,
            standing: Soundness::from_byte(from.u8("soundness")?)?,
        })
    }
}

impl Verdict {
    pub(super) fn put(&self, out: &mut Writer) {
        put_taken(out, &self.at);
        out.u64(self.agree);
        out.u64(self.voters);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Verdict, DecodeError> {
        Ok(Verdict { at: taken(from)?, agree: from.u64("voters that agree")?, voters: from.u64("voters")? })
    }
}

impl Comparison {
    /// Whether two members hold different states.
    pub fn differs(&self) -> bool {
        let mut digests = self.members.iter().filter_map(|member| member.digest.as_ref().ok());
        let first = digests.next();
        digests.any(|digest| Some(digest) != first)
    }

    /// Members whose state is not what the majority holds.
    pub fn deviating(&self) -> impl Iterator<Item = &Compared> {
        let agreed = self.agreed;
        self.members.iter().filter(move |member| match (&member.digest, agreed) {
            (Ok(digest), Some(agreed)) => *digest != agreed,
            (Ok(_) | Err(_), _) => false,
        })
    }

    pub(super) fn put(&self, out: &mut Writer) {
        out.u64(self.index.get());
        out.u64(self.at_ms);
        out.bool(self.agreed.is_some());
        self.agreed.iter().for_each(|digest| out.raw(&digest.0));
        out.usize(self.members.len());
        for member in &self.members {
            out.u64(member.id);
            out.str(&member.name);
            out.bool(member.voter);
            out.bool(member.digest.is_ok());
            match &member.digest {
                Ok(digest) => out.raw(&digest.0),
                Err(why) => out.str(why),
            }
            out.bool(member.fenced);
        }
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Comparison, DecodeError> {
        Ok(Comparison {
            index: Index::new(from.u64("check point")?),
            at_ms: from.u64("time")?,
            agreed: optional(from, "agreement", |from| from.array("digest").map(Digest))?,
            members: from.list("members", compared)?,
        })
    }
}

fn compared(from: &mut Reader<'_>) -> Result<Compared, DecodeError> {
    let (id, name, voter) = (from.u64("node id")?, from.str("node name")?.to_owned(), from.bool("voter")?);
    let digest = match from.bool("digest known")? {
        true => Ok(Digest(from.array("digest")?)),
        false => Err(from.str("reason")?.to_owned()),
    };
    Ok(Compared { id, name, voter, digest, fenced: from.bool("fenced")? })
}
