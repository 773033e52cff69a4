//! The cluster versions that a program understands, as a node says it when it wants to become a member: one that is too
//! old for what the log may hold would stop at the first entry that it does not know.

use super::Consensus;
use konsul_state::{DecodeError, Reader, StateError, VERSION_MAX, VERSION_MIN, Writer};

/// From the oldest to the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Understands {
    pub oldest: u32,
    pub newest: u32,
}

impl Understands {
    /// What this program understands.
    pub const OWN: Understands = Understands { oldest: VERSION_MIN, newest: VERSION_MAX };
    /// What programs understand that do not say it: they are from before there were versions.
    pub const UNSAID: Understands = Understands { oldest: 1, newest: 1 };

    /// Put behind everything else: who does not know it does not read it.
    pub fn encode(self, out: &mut Writer) {
        out.u64(u64::from(self.oldest));
        out.u64(u64::from(self.newest));
    }

    /// What stands behind everything else, if anything does.
    pub fn decode(from: &mut Reader<'_>) -> Result<Understands, DecodeError> {
        if from.rest().is_empty() {
            return Ok(Understands::UNSAID);
        }
        Ok(Understands { oldest: from.u32("oldest cluster version")?, newest: from.u32("newest cluster version")? })
    }

    /// Why a node with this program cannot be a member of a cluster of this version; `None`: it can.
    fn misfit(self, version: u32) -> Option<String> {
        let Understands { oldest, newest } = self;
        let ours = env!("CARGO_PKG_VERSION");
        if newest < version {
            Some(format!(
                "the cluster is at version {version}, and the program that asks understands cluster versions up to {newest}: \
                 install konsuld {ours}, which runs here, or a newer one on that host"
            ))
        } else if version < oldest {
            Some(format!(
                "the cluster is at version {version}, and the program that asks understands cluster versions from {oldest} on: \
                 upgrade the cluster and finalize that with `konsulctl upgrade finalize`, or install konsuld {ours}, which runs \
                 here, on that host"
            ))
        } else {
            None
        }
    }
}

impl Consensus {
    /// Why a node with this program cannot be a member of this cluster; `None`: it can.
    pub fn misfit(&self, program: Understands) -> Result<Option<String>, StateError> {
        Ok(program.misfit(self.cluster_version()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_too_old_is_told_which_version_is_needed() {
        let program = Understands { oldest: 2, newest: 3 };
        assert_eq!((program.misfit(2), program.misfit(3)), (None, None));
        let old = program.misfit(4).unwrap();
        assert!(old.contains("at version 4") && old.contains("up to 3") && old.contains("install konsuld"), "{old}");
        let new = program.misfit(1).unwrap();
        assert!(new.contains("at version 1") && new.contains("from 2 on") && new.contains("upgrade finalize"), "{new}");
    }

    #[test]
    fn who_says_nothing_is_from_before_there_were_versions() {
        let mut out = Writer::new();
        Understands::OWN.encode(&mut out);
        let bytes = out.into_vec();
        assert_eq!(Understands::decode(&mut Reader::new(&bytes)), Ok(Understands::OWN));
        assert_eq!(Understands::decode(&mut Reader::new(&[])), Ok(Understands { oldest: 1, newest: 1 }));
    }
}
