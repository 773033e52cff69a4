//! One write transaction: a run of commands, then everything at once.

use crate::schema::{Store, sm};
use crate::tombstone::{self, TOMBSTONES_MAX};
use crate::writes::{Writes, applied};
use crate::{
    Changes, Command, DecodeError, Index, KvWrite, Outcome, StateError, audit, cluster_record, kv, nodes, restore,
    token, txn, version,
};

/// A run of commands that becomes visible at once.
pub struct Batch<'s> {
    writes: Writes<'s>,
    applied: Index,
    last_command: Index,
    at_check_point: bool,
}

impl Store {
    /// One write transaction. There is one writer at a time: the caller keeps the order.
    pub fn batch(&self) -> Result<Batch<'_>, StateError> {
        let writes = Writes::begin(self)?;
        let applied = applied(&writes.tables, &writes.txn)?;
        Ok(Batch { writes, applied, last_command: applied, at_check_point: false })
    }
}

impl Batch<'_> {
    /// Applies one encoded command at its log index. An error means: nothing of the batch may be kept, stop.
    ///
    /// # Panics
    ///
    /// If `index` is not higher than that of the command before: a command applied twice is a state nobody else has.
    pub fn apply(&mut self, index: Index, command: &[u8]) -> Result<Outcome, StateError> {
        let failed = |source| StateError::Command { index: index.get(), source };
        let command = Command::decode(command).map_err(failed)?;
        assert!(index > self.last_command, "command {index} after command {}", self.last_command);
        self.at_check_point = false;
        let outcome = match &command {
            Command::Group(members) => {
                // All of them first: an unknown one stops the node before anything of the entry is applied.
                let members = members.iter().map(|member| Command::decode(member)).collect::<Result<Vec<_>, _>>();
                let run = |member| self.run(index, member);
                Outcome::Group(members.map_err(failed)?.iter().map(run).collect::<Result<_, _>>()?)
            }
            command => self.run(index, command)?,
        };
        tombstone::reap_beyond(&mut self.writes, TOMBSTONES_MAX)?;
        self.last_command = index;
        if index > self.applied {
            self.put_applied(index)?;
        }
        Ok(outcome)
    }

    fn run(&mut self, index: Index, command: &Command<'_>) -> Result<Outcome, StateError> {
        let w = &mut self.writes;
        match command {
            Command::Kv(write) => match kv::write_refusal(write) {
                Some(why) => Ok(Outcome::Refused(why)),
                None => Ok(Outcome::Written(kv::write(w, index, write)? != kv::Effect::Stale)),
            },
            Command::Txn(ops) => txn::apply(w, index, ops),
            Command::Batch { atomic, ops } => apply_batch(w, index, *atomic, ops),
            Command::Form { cluster_id, version } => nodes::form(w, cluster_id, *version),
            Command::Admit { wished, name } => nodes::admit(w, index, *wished, name),
            Command::Restore(step) => restore::apply(w, index, step),
            Command::Token(write) => token::apply(w, index, write),
            Command::Audit(events) => audit::apply(w, index, events),
            Command::Record { key, value, index: expected } => cluster_record::apply(w, index, key, value, *expected),
            Command::Retire { node_id } => nodes::retire(w, *node_id),
            Command::CheckPoint => {
                self.at_check_point = true;
                Ok(Outcome::None)
            }
            Command::Upgrade { to } => version::raise(w, *to),
            Command::Group(_) => {
                let source = DecodeError::Invalid { what: "group in a group" };
                Err(StateError::Command { index: index.get(), source })
            }
        }
    }

    /// Whether the last command was a check point: the state is to be committed as it is, and its digest taken.
    pub fn is_at_check_point(&self) -> bool {
        self.at_check_point
    }

    /// Puts the caller's replication position beside the data; opaque here. `membership` is kept if `None`.
    pub fn set_position(&mut self, applied: Index, log_id: &[u8], membership: Option<&[u8]>) -> Result<(), StateError> {
        self.put_applied(applied)?;
        let w = &mut self.writes;
        w.tables.sm.put(&mut w.txn, sm::LOG_ID, log_id)?;
        membership.map_or(Ok(()), |m| w.tables.sm.put(&mut w.txn, sm::MEMBERSHIP, m))
    }

    fn put_applied(&mut self, applied: Index) -> Result<(), StateError> {
        self.applied = applied;
        let w = &mut self.writes;
        w.tables.sm.put(&mut w.txn, sm::APPLIED, &applied.get().to_le_bytes())
    }

    /// Makes it visible; what changed, for those who wait.
    pub fn commit(self) -> Result<Changes, StateError> {
        self.writes.commit()
    }
}

fn apply_batch(w: &mut Writes<'_>, index: Index, atomic: bool, ops: &[KvWrite<'_>]) -> Result<Outcome, StateError> {
    if let Some(why) = ops.iter().find_map(kv::write_refusal) {
        return Ok(Outcome::Refused(why));
    }
    if atomic {
        w.start_undoable();
    }
    let held = |op| Ok(kv::write(w, index, op)? != kv::Effect::Stale);
    let results = ops.iter().map(held).collect::<Result<Vec<_>, StateError>>()?;
    let applied = !atomic || results.iter().all(|held| *held);
    if atomic {
        w.end_undoable(applied)?;
    }
    Ok(Outcome::Batch { applied, results })
}
