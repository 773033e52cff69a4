//! Whose turn it is to restart: one member at a time, so that two who are both told "the others can do without you" do not
//! go at once.
//!
//! The turn is a record of the replicated state. The node gives it back when it is well again. If it never does, the turn
//! ends by itself after a moment: a node that is away for longer is missing by then, and that alone holds up the others.
//! Knows nothing about: who asked for the restart, whether the others can do without the node.

use crate::raft::{Consensus, Consistency, ProposeError, ReadError};
use konsul_state::{Command, DecodeError, Outcome, Reader, StateError, View, Writer};

/// The record's key.
const KEY: &[u8] = b"restart-turn";
const VERSION: u8 = 1;
/// From being told to go to being gone.
const LASTS_MS: u64 = 30_000;
/// The clocks of two hosts may differ; a turn that seems to end later than this is of a wrong clock, and holds up nobody.
const LASTS_MS_MAX: u64 = 4 * LASTS_MS;
/// Members that ask at the same time are told one after the other.
const ATTEMPTS_MAX: usize = 10;

/// A member's turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    pub node_id: u64,
    pub name: String,
    /// By the clock of the node that took it; 0: it was given back.
    pub until_ms: u64,
}

/// No turn.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    #[error("read whose turn it is")]
    State(#[from] StateError),
    #[error("read whose turn it is")]
    Read(#[from] ReadError),
    #[error("write whose turn it is")]
    Propose(#[from] ProposeError),
    #[error("it is the turn of {name} to restart, for {for_s} s at most; try again when it is back")]
    Held { name: String, for_s: u64 },
    #[error("too many nodes want to restart at once; try again")]
    Busy,
}

impl Turn {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION);
        out.u64(self.node_id);
        out.str(&self.name);
        out.u64(self.until_ms);
        out.into_vec()
    }

    fn decode(record: &[u8]) -> Result<Turn, DecodeError> {
        let mut from = Reader::new(record);
        from.version("restart turn version", VERSION)?;
        let turn = Turn {
            node_id: from.u64("node id")?,
            name: from.str("node name")?.to_owned(),
            until_ms: from.u64("time of end")?,
        };
        from.end("restart turn")?;
        Ok(turn)
    }

    /// How long it still lasts; `None`: it is over.
    fn left_ms(&self, now_ms: u64) -> Option<u64> {
        let left = self.until_ms.checked_sub(now_ms)?;
        (1..=LASTS_MS_MAX).contains(&left).then_some(left)
    }
}

/// The last turn, and the index of its record.
fn last(view: &View) -> Result<(Option<Turn>, u64), StateError> {
    let Some((record, index)) = view.record(KEY)? else { return Ok((None, 0)) };
    let turn = Turn::decode(record).map_err(|source| StateError::Record { table: "records", source })?;
    Ok((Some(turn), index.get()))
}

/// This node's turn, from now on, unless it is another's. Asked again it begins anew.
pub async fn take(consensus: &Consensus, now_ms: u64) -> Result<Turn, TurnError> {
    let identity = consensus.identity();
    for _ in 0..ATTEMPTS_MAX {
        // From the leader: what this node has applied may be older than what it is to compare with.
        let permit = consensus.permit(Consistency::Leader).await?;
        let (held, index) = last(&consensus.view(&permit)?)?;
        if let Some(held) = held.filter(|held| held.node_id != identity.node_id)
            && let Some(left_ms) = held.left_ms(now_ms)
        {
            return Err(TurnError::Held { name: held.name, for_s: left_ms.div_ceil(1_000) });
        }
        let turn = Turn { node_id: identity.node_id, name: identity.name.clone(), until_ms: now_ms + LASTS_MS };
        if write(consensus, &turn, index).await? {
            return Ok(turn);
        }
    }
    Err(TurnError::Busy)
}

/// This node is well again. Nothing happens if it is not its turn.
pub async fn give_back(consensus: &Consensus) -> Result<(), TurnError> {
    for _ in 0..ATTEMPTS_MAX {
        let permit = consensus.permit(Consistency::Leader).await?;
        let (held, index) = last(&consensus.view(&permit)?)?;
        let own = held.filter(|held| held.node_id == consensus.identity().node_id && held.until_ms > 0);
        let Some(own) = own else { return Ok(()) };
        if write(consensus, &Turn { until_ms: 0, ..own }, index).await? {
            return Ok(());
        }
    }
    Err(TurnError::Busy)
}

/// Whether nobody wrote since `index`.
async fn write(consensus: &Consensus, turn: &Turn, index: u64) -> Result<bool, ProposeError> {
    let value = turn.encode();
    let written = consensus.propose(&Command::Record { key: KEY, value: &value, index }).await?;
    Ok(written.outcome == Outcome::Written(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(until_ms: u64) -> Turn {
        Turn { node_id: 3, name: "n3".to_owned(), until_ms }
    }

    #[test]
    fn a_turn_survives_the_record() {
        for turn in [turn(0), turn(1_800_000_000_000)] {
            assert_eq!(Turn::decode(&turn.encode()), Ok(turn));
        }
    }

    #[test]
    fn a_turn_ends_by_itself_and_a_wrong_clock_holds_up_nobody() {
        let now = 1_800_000_000_000;
        let table = [
            (0, None),
            (now, None),
            (now + 1, Some(1)),
            (now + LASTS_MS, Some(LASTS_MS)),
            (now + LASTS_MS_MAX, Some(LASTS_MS_MAX)),
            (now + LASTS_MS_MAX + 1, None),
        ];
        for (until_ms, left) in table {
            assert_eq!(turn(until_ms).left_ms(now), left, "{until_ms}");
        }
    }
}
