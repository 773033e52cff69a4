//! What members ask of each other: a follower passes a client's write to the leader, asks it for a read index, and so on.
//!
//! A version leads every message; the errors are our own, never openraft's.

use super::examined::{Comparison, Examined, Verdict};
use super::membership::{Done, MembershipDone, MembershipError, MembershipOp, MembershipRequest, Standing};
use super::{Committed, Consistency, ProposeError};
use crate::raft_types::NodeInfo;
use crate::storage::codec;
use crate::telemetry::trace::Parent;
use bytes::Bytes;
use konsul_state::{DecodeError, Index, Outcome, Reader, Writer};

const VERSION: u8 = 1;

/// A forwarded group of commands is part of so many traces at most; of further ones it is not told.
pub(super) const TRACES_MAX: usize = 16;

/// A request to the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// An encoded command.
    Propose { command: &'a [u8] },
    /// The same, as part of these traces. Programs from before do not understand it, and say so.
    ProposeTraced { parents: Vec<Parent>, command: &'a [u8] },
    /// The index a read of this consistency has to wait for.
    ReadIndex { consistency: Consistency },
    /// Hand leadership to this node.
    Transfer { to: u64 },
    /// Change who belongs to the cluster, or votes.
    Change { request: MembershipRequest },
    /// The asking node says where it is, and asks whether it still belongs to the cluster.
    Greet { info: NodeInfo },
    /// What the leader's autopilot published last.
    Report,
    /// What the node tells of its state and its program.
    Examine,
    /// What a majority of the voters holds at a check point.
    Judge { verdict: Verdict },
    /// Compare the states of all members now.
    Compare,
    /// Not for consensus: for the [`super::MemberService`].
    Member { request: &'a [u8] },
}

/// The leader's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Committed(Committed),
    /// Not committed, surely or perhaps: the error says which.
    Failed(ProposeError),
    ReadIndex(Index),
    /// The transfer was started.
    Transferring,
    /// Not the leader, or not acknowledged right now; surely nothing was done.
    NotLeader,
    /// The request could not be read: another version.
    Unreadable(String),
    Changed(MembershipDone),
    NotChanged(MembershipError),
    Greeted(Standing),
    Report(Bytes),
    Examined(Examined),
    /// Whether the node is fenced.
    Judged(bool),
    Compared(Comparison),
    /// And why.
    NotCompared(String),
    /// What the member service answered.
    Member(Bytes),
}

fn version(from: &mut Reader<'_>) -> Result<(), DecodeError> {
    match from.u8("version")? {
        VERSION => Ok(()),
        found => Err(DecodeError::Unknown { what: "forward version", found: found.into(), known: VERSION.into() }),
    }
}

impl<'a> Request<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION);
        match self {
            Request::Propose { command } => {
                out.u8(0);
                out.raw(command);
            }
            Request::ProposeTraced { parents, command } => {
                out.u8(4);
                out.usize(parents.len());
                parents.iter().for_each(|parent| out.raw(&parent.to_bytes()));
                out.raw(command);
            }
            Request::ReadIndex { consistency } => {
                out.u8(1);
                out.bool(*consistency == Consistency::Strong);
            }
            Request::Transfer { to } => {
                out.u8(2);
                out.u64(*to);
            }
            Request::Change { request } => {
                out.u8(16);
                put_request(&mut out, request);
            }
            Request::Greet { info } => {
                out.u8(17);
                codec::put_node(&mut out, info);
            }
            Request::Report => out.u8(18),
            Request::Examine => out.u8(19),
            Request::Judge { verdict } => {
                out.u8(20);
                verdict.put(&mut out);
            }
            Request::Compare => out.u8(21),
            Request::Member { request } => {
                out.u8(3);
                out.raw(request);
            }
        }
        out.into_vec()
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Result<Request<'a>, DecodeError> {
        let mut from = Reader::new(bytes);
        version(&mut from)?;
        match from.u8("request kind")? {
            0 => Ok(Request::Propose { command: from.rest() }),
            1 => {
                let strong = from.bool("strong")?;
                let consistency = if strong { Consistency::Strong } else { Consistency::Leader };
                Ok(Request::ReadIndex { consistency })
            }
            2 => Ok(Request::Transfer { to: from.u64("node id")? }),
            3 => Ok(Request::Member { request: from.rest() }),
            4 => Ok(Request::ProposeTraced { parents: parents(&mut from)?, command: from.rest() }),
            16 => Ok(Request::Change { request: request(&mut from)? }),
            17 => Ok(Request::Greet { info: codec::node(&mut from)? }),
            18 => Ok(Request::Report),
            19 => Ok(Request::Examine),
            20 => Ok(Request::Judge { verdict: Verdict::read(&mut from)? }),
            21 => Ok(Request::Compare),
            found => Err(DecodeError::Unknown { what: "request kind", found: found.into(), known: 21 }),
        }
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION);
        match self {
            Answer::Committed(committed) => {
                out.u8(0);
                out.u64(committed.index.get());
                committed.outcome.encode(&mut out);
            }
            Answer::Failed(error) => {
                out.u8(1);
                put_error(&mut out, error);
            }
            Answer::ReadIndex(index) => {
                out.u8(2);
                out.u64(index.get());
            }
            Answer::Transferring => out.u8(3),
            Answer::NotLeader => out.u8(4),
            Answer::Unreadable(why) => {
                out.u8(5);
                out.str(why);
            }
            Answer::Changed(done) => {
                out.u8(16);
                put_done(&mut out, done);
            }
            Answer::NotChanged(error) => {
                out.u8(17);
                put_membership_error(&mut out, error);
            }
            Answer::Greeted(standing) => {
                out.u8(18);
                out.u8(match standing {
                    Standing::Member => 0,
                    Standing::Stranger => 1,
                    Standing::Gone => 2,
                });
            }
            Answer::Report(report) => {
                out.u8(19);
                out.raw(report);
            }
            Answer::Examined(examined) => {
                out.u8(20);
                examined.put(&mut out);
            }
            Answer::Judged(fenced) => {
                out.u8(21);
                out.bool(*fenced);
            }
            Answer::Compared(comparison) => {
                out.u8(22);
                comparison.put(&mut out);
            }
            Answer::NotCompared(why) => {
                out.u8(23);
                out.str(why);
            }
            Answer::Member(answer) => {
                out.u8(6);
                out.raw(answer);
            }
        }
        out.into_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Answer, DecodeError> {
        let mut from = Reader::new(bytes);
        version(&mut from)?;
        match from.u8("answer kind")? {
            0 => {
                let index = Index::new(from.u64("log index")?);
                Ok(Answer::Committed(Committed { index, outcome: Outcome::decode(&mut from)? }))
            }
            1 => Ok(Answer::Failed(error(&mut from)?)),
            2 => Ok(Answer::ReadIndex(Index::new(from.u64("read index")?))),
            3 => Ok(Answer::Transferring),
            4 => Ok(Answer::NotLeader),
            5 => Ok(Answer::Unreadable(from.str("reason")?.to_owned())),
            16 => Ok(Answer::Changed(done(&mut from)?)),
            17 => Ok(Answer::NotChanged(membership_error(&mut from)?)),
            18 => Ok(Answer::Greeted(match from.u8("standing")? {
                0 => Standing::Member,
                1 => Standing::Stranger,
                2 => Standing::Gone,
                found => return Err(unknown("standing", found, 2)),
            })),
            19 => Ok(Answer::Report(Bytes::copy_from_slice(from.rest()))),
            20 => Ok(Answer::Examined(Examined::read(&mut from)?)),
            21 => Ok(Answer::Judged(from.bool("fenced")?)),
            22 => Ok(Answer::Compared(Comparison::read(&mut from)?)),
            23 => Ok(Answer::NotCompared(from.str("reason")?.to_owned())),
            6 => Ok(Answer::Member(Bytes::copy_from_slice(from.rest()))),
            found => Err(DecodeError::Unknown { what: "answer kind", found: found.into(), known: 23 }),
        }
    }
}

fn parents(from: &mut Reader<'_>) -> Result<Vec<Parent>, DecodeError> {
    let count = from.usize("number of traces")?;
    if count > TRACES_MAX {
        return Err(DecodeError::Invalid { what: "number of traces" });
    }
    let parent = |from: &mut Reader<'_>| {
        let bytes = from.array::<{ Parent::BYTES }>("trace")?;
        Parent::of_bytes(&bytes).ok_or(DecodeError::Invalid { what: "trace" })
    };
    (0..count).map(|_| parent(from)).collect()
}

fn unknown(what: &'static str, found: u8, known: u8) -> DecodeError {
    DecodeError::Unknown { what, found: found.into(), known: known.into() }
}

fn put_request(out: &mut Writer, request: &MembershipRequest) {
    out.u8(match request.op {
        MembershipOp::Leave => 0,
        MembershipOp::Remove => 1,
        MembershipOp::Promote => 2,
        MembershipOp::Demote => 3,
    });
    out.str(&request.node);
    out.bool(request.force);
}

fn request(from: &mut Reader<'_>) -> Result<MembershipRequest, DecodeError> {
    let op = match from.u8("membership operation")? {
        0 => MembershipOp::Leave,
        1 => MembershipOp::Remove,
        2 => MembershipOp::Promote,
        3 => MembershipOp::Demote,
        found => return Err(unknown("membership operation", found, 3)),
    };
    Ok(MembershipRequest { op, node: from.str("node")?.to_owned(), force: from.bool("force")? })
}

fn put_done(out: &mut Writer, done: &MembershipDone) {
    out.u64(done.id);
    out.str(&done.name);
    match &done.done {
        Done::Now => out.u8(0),
        Done::Already => out.u8(1),
        Done::Later(why) => {
            out.u8(2);
            out.str(why);
        }
    }
    out.u64(done.voters);
    out.u64(done.tolerance);
}

fn done(from: &mut Reader<'_>) -> Result<MembershipDone, DecodeError> {
    let (id, name) = (from.u64("node id")?, from.str("node name")?.to_owned());
    let done = match from.u8("how it was done")? {
        0 => Done::Now,
        1 => Done::Already,
        2 => Done::Later(from.str("reason")?.to_owned()),
        found => return Err(unknown("how it was done", found, 2)),
    };
    Ok(MembershipDone { id, name, done, voters: from.u64("voters")?, tolerance: from.u64("tolerance")? })
}

fn put_membership_error(out: &mut Writer, error: &MembershipError) {
    match error {
        MembershipError::NoLeader { waited_ms } => {
            out.u8(0);
            out.u64(*waited_ms);
        }
        MembershipError::NoSuchMember { node, members } => {
            out.u8(1);
            out.str(node);
            out.str(members);
        }
        MembershipError::Refused { why, force_helps } => {
            out.u8(2);
            out.str(why);
            out.bool(*force_helps);
        }
        MembershipError::Unknown { waited_ms } => {
            out.u8(3);
            out.u64(*waited_ms);
        }
        MembershipError::Failed { why } => {
            out.u8(4);
            out.str(why);
        }
    }
}

fn membership_error(from: &mut Reader<'_>) -> Result<MembershipError, DecodeError> {
    Ok(match from.u8("membership error")? {
        0 => MembershipError::NoLeader { waited_ms: from.u64("wait")? },
        1 => MembershipError::NoSuchMember {
            node: from.str("node")?.to_owned(),
            members: from.str("members")?.to_owned(),
        },
        2 => MembershipError::Refused { why: from.str("reason")?.to_owned(), force_helps: from.bool("force helps")? },
        3 => MembershipError::Unknown { waited_ms: from.u64("wait")? },
        4 => MembershipError::Failed { why: from.str("reason")?.to_owned() },
        found => return Err(unknown("membership error", found, 4)),
    })
}

fn put_error(out: &mut Writer, error: &ProposeError) {
    match error {
        ProposeError::NoLeader { waited_ms } => {
            out.u8(0);
            out.u64(*waited_ms);
        }
        ProposeError::OutcomeUnknown { waited_ms } => {
            out.u8(1);
            out.u64(*waited_ms);
        }
        ProposeError::Busy { in_flight_bytes, max_bytes, retry_after_s } => {
            out.u8(2);
            out.usize(*in_flight_bytes);
            out.usize(*max_bytes);
            out.u64(u64::from(*retry_after_s));
        }
        ProposeError::ReadOnly { reason } => {
            out.u8(3);
            out.str(reason);
        }
        ProposeError::TooLarge { bytes, max_bytes } => {
            out.u8(4);
            out.usize(*bytes);
            out.usize(*max_bytes);
        }
        ProposeError::Stopping => out.u8(5),
    }
}

fn error(from: &mut Reader<'_>) -> Result<ProposeError, DecodeError> {
    Ok(match from.u8("error kind")? {
        0 => ProposeError::NoLeader { waited_ms: from.u64("wait")? },
        1 => ProposeError::OutcomeUnknown { waited_ms: from.u64("wait")? },
        2 => ProposeError::Busy {
            in_flight_bytes: from.usize("bytes in flight")?,
            max_bytes: from.usize("limit")?,
            retry_after_s: u32::try_from(from.u64("seconds")?).map_err(|_| DecodeError::Invalid { what: "seconds" })?,
        },
        3 => ProposeError::ReadOnly { reason: from.str("reason")?.to_owned() },
        4 => ProposeError::TooLarge { bytes: from.usize("bytes")?, max_bytes: from.usize("limit")? },
        5 => ProposeError::Stopping,
        found => return Err(DecodeError::Unknown { what: "error kind", found: found.into(), known: 5 }),
    })
}

#[cfg(test)]
mod tests {
    use super::super::examined::{Compared, Soundness};
    use super::*;
    use crate::mangled::survive;
    use crate::storage::Taken;
    use konsul_state::Digest;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn requests_about_the_membership_keep_their_bytes() {
        let info = NodeInfo { name: "a".into(), rpc: "h:1".into(), http: "u".into() };
        let change = |op, force| Request::Change { request: MembershipRequest { op, node: "n3".into(), force } };
        let table = [
            (change(MembershipOp::Leave, false), "011000026e3300"),
            (change(MembershipOp::Remove, true), "011001026e3301"),
            (change(MembershipOp::Promote, false), "011002026e3300"),
            (change(MembershipOp::Demote, false), "011003026e3300"),
            (Request::Greet { info }, "0111016103683a310175"),
            (Request::Report, "0112"),
        ];
        for (request, bytes) in table {
            let encoded = request.encode();
            assert_eq!(hex(&encoded), bytes, "{request:?}");
            assert_eq!(Request::decode(&encoded), Ok(request));
        }
    }

    #[test]
    fn answers_about_the_membership_keep_their_bytes() {
        let done = |done| Answer::Changed(MembershipDone { id: 3, name: "c".into(), done, voters: 2, tolerance: 0 });
        let table = [
            (done(Done::Now), "01100301630002 00"),
            (done(Done::Already), "01100301630102 00"),
            (done(Done::Later("w".into())), "0110030163020177 0200"),
            (Answer::NotChanged(MembershipError::NoLeader { waited_ms: 5 }), "01110005"),
            (
                Answer::NotChanged(MembershipError::NoSuchMember { node: "x".into(), members: "a".into() }),
                "01110101780161",
            ),
            (Answer::NotChanged(MembershipError::Refused { why: "w".into(), force_helps: true }), "011102017701"),
            (Answer::NotChanged(MembershipError::Unknown { waited_ms: 7 }), "01110307"),
            (Answer::NotChanged(MembershipError::Failed { why: "w".into() }), "0111040177"),
            (Answer::Greeted(Standing::Member), "011200"),
            (Answer::Greeted(Standing::Stranger), "011201"),
            (Answer::Greeted(Standing::Gone), "011202"),
            (Answer::Report(Bytes::from_static(b"r")), "011372"),
        ];
        for (answer, bytes) in table {
            let encoded = answer.encode();
            assert_eq!(hex(&encoded), bytes.replace(' ', ""), "{answer:?}");
            assert_eq!(Answer::decode(&encoded), Ok(answer));
        }
    }

    #[test]
    fn messages_about_states_keep_their_bytes() {
        let at = |byte| Taken { index: Index::new(300), digest: Digest([byte; 32]) };
        let (digest, other) = ("07".repeat(32), "08".repeat(32));
        let request = Request::Judge { verdict: Verdict { at: at(7), agree: 2, voters: 3 } };
        assert_eq!(hex(&request.encode()), format!("0114ac02{digest}0203"));
        for (request, bytes) in [(Request::Examine, "0113"), (Request::Compare, "0115")] {
            assert_eq!(hex(&request.encode()), bytes);
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        assert_eq!(Request::decode(&request.encode()), Ok(request));
        let examined =
            |taken, standing| Answer::Examined(Examined { program: "1".into(), versions: (1, 2), taken, standing });
        let compared = |name: &str, digest, fenced| Compared { id: 3, name: name.into(), voter: true, digest, fenced };
        let members = vec![compared("c", Ok(Digest([8; 32])), true), compared("d", Err("w".to_owned()), false)];
        let comparison = Comparison { index: Index::new(300), at_ms: 5, agreed: Some(Digest([7; 32])), members };
        let table = [
            (examined(None, Soundness::Sound), "01140131010200 00".to_owned()),
            (examined(Some(at(7)), Soundness::Asks), format!("01140131010201ac02{digest}02")),
            (Answer::Judged(true), "011501".to_owned()),
            (Answer::Compared(comparison), format!("0116ac0205 01{digest} 02 0301630101{other}01 030164010001 7700")),
            (Answer::NotCompared("w".into()), "01170177".to_owned()),
        ];
        for (answer, bytes) in table {
            let encoded = answer.encode();
            assert_eq!(hex(&encoded), bytes.replace(' ', ""), "{answer:?}");
            assert_eq!(Answer::decode(&encoded), Ok(answer));
        }
    }

    #[test]
    fn a_traced_command_keeps_its_bytes_and_the_number_of_traces_is_bounded() {
        let parent = Parent::of_bytes(&[7; Parent::BYTES]).unwrap();
        let request = Request::ProposeTraced { parents: vec![parent, parent], command: b"c" };
        let encoded = request.encode();
        assert_eq!(hex(&encoded), format!("010402{}63", "07".repeat(2 * Parent::BYTES)));
        assert_eq!(Request::decode(&encoded), Ok(request));
        let many = [&[1, 4, 17][..], &[7; 17 * Parent::BYTES]].concat();
        for bad in [&many[..], &[1, 4, 1, 7], &[1, 4]] {
            assert!(Request::decode(bad).is_err(), "{bad:?}");
        }
        assert!(Request::decode(&[&[1, 4, 1][..], &[0; Parent::BYTES]].concat()).is_err(), "no ids");
    }

    #[test]
    fn what_is_not_known_is_said_so() {
        for bytes in [&[2, 16][..], &[1, 99], &[1, 16, 9, 0, 0], &[1]] {
            assert!(Request::decode(bytes).is_err(), "{bytes:?}");
        }
        for bytes in [&[2, 16][..], &[1, 99], &[1, 18, 9], &[1, 17, 9]] {
            assert!(Answer::decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn mangled_messages_of_members_are_refused_without_a_panic() {
        let parent = Parent::of_bytes(&[7; Parent::BYTES]).unwrap();
        let info = NodeInfo { name: "a".into(), rpc: "h:1".into(), http: "u".into() };
        let change = MembershipRequest { op: MembershipOp::Remove, node: "n3".into(), force: true };
        let at = Taken { index: Index::new(300), digest: Digest([7; 32]) };
        let requests = [
            Request::Propose { command: b"command" },
            Request::ProposeTraced { parents: vec![parent], command: b"command" },
            Request::ReadIndex { consistency: Consistency::Strong },
            Request::Transfer { to: 300 },
            Request::Change { request: change },
            Request::Greet { info },
            Request::Judge { verdict: Verdict { at, agree: 2, voters: 3 } },
            Request::Member { request: b"request" },
        ];
        survive(&requests.map(|request| request.encode()), |bytes| drop(Request::decode(bytes)));
        let done = MembershipDone { id: 3, name: "c".into(), done: Done::Later("w".into()), voters: 2, tolerance: 0 };
        let members = vec![Compared { id: 3, name: "c".into(), voter: true, digest: Err("w".into()), fenced: false }];
        let comparison = Comparison { index: Index::new(300), at_ms: 5, agreed: Some(at.digest), members };
        let examined = Examined { program: "1".into(), versions: (1, 2), taken: Some(at), standing: Soundness::Asks };
        let outcome = Outcome::Group(vec![Outcome::Written(true), Outcome::Refused("no".into())]);
        let answers = [
            Answer::Committed(Committed { index: Index::new(300), outcome }),
            Answer::Failed(ProposeError::Busy { in_flight_bytes: 300, max_bytes: 400, retry_after_s: 1 }),
            Answer::Unreadable("why".into()),
            Answer::Changed(done),
            Answer::NotChanged(MembershipError::NoSuchMember { node: "x".into(), members: "a".into() }),
            Answer::Greeted(Standing::Gone),
            Answer::Examined(examined),
            Answer::Compared(comparison),
        ];
        survive(&answers.map(|answer| answer.encode()), |bytes| drop(Answer::decode(bytes)));
    }
}
