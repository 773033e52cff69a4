//! What the leader's autopilot tells of the servers, as any node can ask for it.

use konsul_state::{DecodeError, Reader, Writer};

const VERSION: u8 = 1;

/// The cluster's health as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub term: u64,
    /// Every server is healthy.
    pub healthy: bool,
    /// Voters that may fail.
    pub failure_tolerance: u64,
    pub servers: Vec<ServerReport>,
    /// What autopilot waits for, or does not do and why.
    pub notes: Vec<String>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerReport {
    pub id: u64,
    pub name: String,
    pub rpc: String,
    pub http: String,
    pub leader: bool,
    pub voter: bool,
    pub stays_learner: bool,
    /// It answered lately.
    pub alive: bool,
    pub healthy: bool,
    /// Milliseconds since 1970; since when `healthy` is what it is.
    pub stable_since_ms: u64,
    pub last_contact_us: u64,
    pub last_term: u64,
    pub last_index: u64,
}

impl Report {
    pub(super) fn new(term: u64, servers: Vec<ServerReport>, notes: Vec<String>) -> Report {
        let voters = servers.iter().filter(|server| server.voter).count();
        let sound = servers.iter().filter(|server| server.voter && server.healthy).count();
        let failure_tolerance = sound.saturating_sub(voters / 2 + 1);
        Report {
            term,
            healthy: servers.iter().all(|server| server.healthy),
            failure_tolerance: u64::try_from(failure_tolerance).expect("a count fits 64 bits"),
            servers,
            notes,
        }
    }

    /// Voters that could fail if all were well, of as many as there are or, if that is more, as the configuration names.
    pub(super) fn intended_tolerance(&self, seats: usize) -> u64 {
        let voters = self.servers.iter().filter(|server| server.voter).count();
        let spare = seats.max(voters).saturating_sub(1) / 2;
        u64::try_from(spare).expect("a count fits 64 bits")
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION);
        out.u64(self.term);
        out.usize(self.servers.len());
        for server in &self.servers {
            out.u64(server.id);
            out.str(&server.name);
            out.str(&server.rpc);
            out.str(&server.http);
            let flags = [server.leader, server.voter, server.stays_learner, server.alive, server.healthy];
            flags.into_iter().for_each(|flag| out.bool(flag));
            out.u64(server.stable_since_ms);
            out.u64(server.last_contact_us);
            out.u64(server.last_term);
            out.u64(server.last_index);
        }
        out.usize(self.notes.len());
        self.notes.iter().for_each(|note| out.str(note));
        out.into_vec()
    }

    /// What [`crate::raft::Consensus::report`] gives.
    pub fn decode(bytes: &[u8]) -> Result<Report, DecodeError> {
        let mut from = Reader::new(bytes);
        from.version("report version", VERSION)?;
        let term = from.u64("term")?;
        let servers = from.list("servers", server)?;
        let notes = from.list("notes", |from| from.str("note").map(str::to_owned))?;
        from.end("report")?;
        Ok(Report::new(term, servers, notes))
    }
}

fn server(from: &mut Reader<'_>) -> Result<ServerReport, DecodeError> {
    Ok(ServerReport {
        id: from.u64("node id")?,
        name: from.str("node name")?.to_owned(),
        rpc: from.str("rpc address")?.to_owned(),
        http: from.str("http address")?.to_owned(),
        leader: from.bool("leader")?,
        voter: from.bool("voter")?,
        stays_learner: from.bool("stays learner")?,
        alive: from.bool("alive")?,
        healthy: from.bool("healthy")?,
        stable_since_ms: from.u64("stable since")?,
        last_contact_us: from.u64("last contact")?,
        last_term: from.u64("last term")?,
        last_index: from.u64("last index")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mangled::survive;

    fn server(id: u64, voter: bool, healthy: bool) -> ServerReport {
        ServerReport {
            id,
            name: format!("n{id}"),
            rpc: "h:1".into(),
            http: "http://h:2".into(),
            leader: id == 1,
            voter,
            stays_learner: !voter,
            alive: true,
            healthy,
            stable_since_ms: 5,
            last_contact_us: 6,
            last_term: 7,
            last_index: 300,
        }
    }

    #[test]
    fn a_report_survives_the_wire() {
        let report = Report::new(3, vec![server(1, true, true), server(2, false, false)], vec!["waits".into()]);
        let bytes = report.encode();
        assert_eq!(Report::decode(&bytes), Ok(report));
        assert_eq!(bytes[..8], [1, 3, 2, 1, 2, b'n', b'1', 3], "version 1 as it was first written");
        assert!(Report::decode(&bytes[1..]).is_err());
    }

    #[test]
    fn healthy_voters_beyond_a_majority_may_fail() {
        let of = |healthy: &[bool]| {
            let servers = (1..).zip(healthy).map(|(id, healthy)| server(id, true, *healthy)).collect();
            let report = Report::new(1, servers, Vec::new());
            (report.healthy, report.failure_tolerance)
        };
        assert_eq!(of(&[true]), (true, 0));
        assert_eq!(of(&[true, true, true]), (true, 1));
        assert_eq!(of(&[true, true, false]), (false, 0));
        assert_eq!(of(&[true, true, true, true, false]), (false, 1));
    }

    #[test]
    fn what_is_intended_counts_the_sick_and_the_missing() {
        let of = |voters: u64, seats| {
            let servers = (1..=voters).map(|id| server(id, true, false)).collect();
            Report::new(1, servers, Vec::new()).intended_tolerance(seats)
        };
        for (voters, seats, tolerance) in [(1, 0, 0), (2, 0, 0), (3, 0, 1), (4, 0, 1), (5, 0, 2), (2, 3, 1), (5, 3, 2)]
        {
            assert_eq!(of(voters, seats), tolerance, "{voters} voters of {seats}");
        }
    }

    #[test]
    fn a_mangled_report_is_refused_without_a_panic() {
        let report = Report::new(3, vec![server(1, true, true), server(2, false, false)], vec!["waits".into()]);
        survive(&[report.encode()], |bytes| drop(Report::decode(bytes)));
    }
}
