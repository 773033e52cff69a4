//! What the membership shall keep to, as operators set it: a record of the replicated state, the same on every node.
//!
//! Its members are those of Consul's autopilot configuration, and one of our own.

use super::super::Consensus;
use super::learners::RecordError;
use konsul_state::{DecodeError, Reader, StateError, View, Writer};
use std::time::Duration;

/// The record's key.
const KEY: &str = "autopilot";
const VERSION: u8 = 1;

/// The configuration of autopilot.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct Policy {
    /// Whether dead servers are removed.
    pub cleanup_dead_servers: bool,
    /// A server that was silent for longer is not healthy. Never less than two leases count, see
    /// [`super::Consensus::contact_max`].
    pub last_contact_threshold: Duration,
    /// A server that is further behind is not healthy.
    pub max_trailing_logs: u64,
    /// Fewest voters that a clean-up may leave; 0: three, or a majority of what the cluster is meant to have.
    pub min_quorum: u64,
    /// How long a newcomer must be healthy before it votes.
    pub server_stabilization: Duration,
    /// Ours: a server that was silent for so long is dead.
    pub dead_server_after: Duration,
    /// Of Consul's enterprise edition: kept and given back, without effect; as in Consul itself.
    pub redundancy_zone_tag: String,
    /// As above.
    pub disable_upgrade_migration: bool,
    /// As above.
    pub upgrade_version_tag: String,
}

/// A policy as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredPolicy {
    pub policy: Policy,
    /// Log index of its first write; 0: it was never written, and the defaults hold.
    pub create_index: u64,
    /// Log index of its last write.
    pub modify_index: u64,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            cleanup_dead_servers: true,
            last_contact_threshold: Duration::from_millis(200),
            max_trailing_logs: 250,
            min_quorum: 0,
            server_stabilization: Duration::from_secs(10),
            // A host that restarts is back by then, mostly; and with an election before it, a dead one is gone within a
            // minute.
            dead_server_after: Duration::from_secs(45),
            redundancy_zone_tag: String::new(),
            disable_upgrade_migration: false,
            upgrade_version_tag: String::new(),
        }
    }
}

impl Policy {
    /// The record. `created`: the index of the first write; 0 in the first itself.
    pub(super) fn encode(&self, created: u64) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION);
        out.u64(created);
        out.bool(self.cleanup_dead_servers);
        out.u64(millis(self.last_contact_threshold));
        out.u64(self.max_trailing_logs);
        out.u64(self.min_quorum);
        out.u64(millis(self.server_stabilization));
        out.u64(millis(self.dead_server_after));
        out.str(&self.redundancy_zone_tag);
        out.bool(self.disable_upgrade_migration);
        out.str(&self.upgrade_version_tag);
        out.into_vec()
    }
}

impl StoredPolicy {
    pub(super) fn decode(record: &[u8], modify_index: u64) -> Result<StoredPolicy, DecodeError> {
        let mut from = Reader::new(record);
        from.version("autopilot configuration version", VERSION)?;
        let created = from.u64("create index")?;
        let policy = Policy {
            cleanup_dead_servers: from.bool("clean up dead servers")?,
            last_contact_threshold: Duration::from_millis(from.u64("last contact threshold")?),
            max_trailing_logs: from.u64("max trailing logs")?,
            min_quorum: from.u64("min quorum")?,
            server_stabilization: Duration::from_millis(from.u64("server stabilization")?),
            dead_server_after: Duration::from_millis(from.u64("dead server after")?),
            redundancy_zone_tag: from.str("redundancy zone tag")?.to_owned(),
            disable_upgrade_migration: from.bool("disable upgrade migration")?,
            upgrade_version_tag: from.str("upgrade version tag")?.to_owned(),
        };
        from.end("autopilot configuration")?;
        let create_index = if created == 0 { modify_index } else { created };
        Ok(StoredPolicy { policy, create_index, modify_index })
    }
}

impl Consensus {
    /// The policy, at this moment of the state.
    pub fn policy_in(&self, view: &View) -> Result<StoredPolicy, StateError> {
        let damaged = |source| StateError::Record { table: "records", source };
        match view.record(KEY.as_bytes())? {
            None => Ok(StoredPolicy::default()),
            Some((record, index)) => StoredPolicy::decode(record, index.get()).map_err(damaged),
        }
    }

    /// The policy, as far as this node has applied the log.
    pub fn policy(&self) -> Result<StoredPolicy, StateError> {
        self.policy_in(&self.inner.state.view()?)
    }

    /// Writes the policy, if the one that is there is still `before`; whether it was. Works on every node.
    pub async fn set_policy(&self, before: &StoredPolicy, policy: &Policy) -> Result<bool, RecordError> {
        self.write_record(KEY, &policy.encode(before.create_index), before.modify_index).await
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What this version writes: every later one has to read it.
    const WRITTEN: &str = "01070105fa0103c0030a027a6100027631";

    fn policy() -> Policy {
        Policy {
            last_contact_threshold: Duration::from_millis(5),
            min_quorum: 3,
            server_stabilization: Duration::from_millis(448),
            dead_server_after: Duration::from_millis(10),
            redundancy_zone_tag: "za".into(),
            upgrade_version_tag: "v1".into(),
            ..Policy::default()
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_policy_survives_the_record_and_its_bytes_do_not_change() {
        let record = policy().encode(7);
        assert_eq!(hex(&record), WRITTEN);
        let stored = StoredPolicy { policy: policy(), create_index: 7, modify_index: 9 };
        assert_eq!(StoredPolicy::decode(&record, 9), Ok(stored));
    }

    #[test]
    fn the_first_write_is_the_creation() {
        let stored = StoredPolicy::decode(&policy().encode(0), 9).unwrap();
        assert_eq!((stored.create_index, stored.modify_index), (9, 9));
    }

    #[test]
    fn a_record_of_another_version_or_with_more_behind_it_is_refused() {
        let mut record = policy().encode(0);
        record[0] = 2;
        assert!(StoredPolicy::decode(&record, 1).is_err());
        let mut record = policy().encode(0);
        record.push(0);
        assert!(StoredPolicy::decode(&record, 1).is_err());
    }
}
