//! What an archive says of itself, for people and programs.

use super::archive::{Archive, FORMAT, Made};
use super::header::{Header, Member};
use konsul_api::archive::{ArchiveFacts, ArchivedMember};
use konsul_api::time::rfc3339;

impl Archive {
    pub fn facts(&self) -> ArchiveFacts {
        facts(&self.header, &self.id, &self.sha256, self.bytes())
    }
}

impl Made {
    pub fn facts(&self) -> ArchiveFacts {
        facts(&self.header, &self.id, &self.sha256, self.bytes())
    }
}

fn facts(header: &Header, id: &[u8; 32], sha256: &[u8; 32], bytes: u64) -> ArchiveFacts {
    ArchiveFacts {
        id: konsul_state::Digest(*id).to_string(),
        sha256: konsul_state::Digest(*sha256).to_string(),
        format: FORMAT,
        cluster_id: uuid::Uuid::from_bytes(header.cluster_id).to_string(),
        epoch: header.epoch,
        index: header.last.index,
        term: header.last.committed_leader_id().term,
        created: rfc3339(header.created_ms),
        made_by: header.made_by.clone(),
        version: header.version.clone(),
        members: header.members.iter().map(member).collect(),
        keys: header.keys,
        records: header.records,
        bytes,
        plain_bytes: header.plain_bytes,
        digest: header.digest.to_string(),
    }
}

fn member(member: &Member) -> ArchivedMember {
    let Member { id, name, rpc, voter } = member.clone();
    ArchivedMember { id, name, rpc, voter }
}
