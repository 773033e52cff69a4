//! The cluster's identity and the ids of its nodes.

use crate::codec::{DecodeError, Reader};
use crate::schema::{TableId, sm};
use crate::writes::Writes;
use crate::{Index, Outcome, StateError, View, version};

/// A node id that was granted, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node<'v> {
    /// Never granted to anybody else.
    pub id: u64,
    /// The name it was granted to.
    pub name: &'v str,
    /// It never speaks again.
    pub retired: bool,
}

/// In front of the record of a retired node. The record of any other is its name: text, which has no such byte.
const RETIRED: u8 = 0xff;
/// Behind [`RETIRED`].
const RECORD_VERSION: u8 = 1;

/// Writes the cluster's identity, once, and the version it begins with.
pub(crate) fn form(w: &mut Writes<'_>, cluster_id: &[u8; 16], version: u32) -> Result<Outcome, StateError> {
    match w.tables.sm.get(&w.txn, sm::CLUSTER_ID)? {
        Some(formed) if formed == cluster_id => Ok(Outcome::None),
        Some(_) => Ok(Outcome::Refused("the cluster is formed already, under another id".to_owned())),
        None => {
            w.tables.sm.put(&mut w.txn, sm::CLUSTER_ID, cluster_id)?;
            version::raise(w, version)?;
            Ok(Outcome::None)
        }
    }
}

/// Grants an id that no node ever had. The table keeps every id that was ever granted; no command deletes from it.
pub(crate) fn admit(w: &mut Writes<'_>, index: Index, wished: u64, name: &str) -> Result<Outcome, StateError> {
    let node_id = if wished != 0 && w.tables.nodes.get(&w.txn, &wished.to_be_bytes())?.is_none() {
        wished
    } else {
        let highest = match w.tables.nodes.last(&w.txn)? {
            Some((key, _)) => granted_id(key).map_err(|e| TableId::Nodes.damaged(e))?,
            None => 0,
        };
        match highest.max(index.get()).checked_add(1) {
            Some(fresh) => fresh,
            None => {
                return Ok(Outcome::Refused("the highest node id is taken: wish for a free one".to_owned()));
            }
        }
    };
    w.tables.nodes.put(&mut w.txn, &node_id.to_be_bytes(), name.as_bytes())?;
    w.changes.cluster = true;
    Ok(Outcome::Admitted { node_id })
}

/// Marks an id that was granted: it never speaks again.
pub(crate) fn retire(w: &mut Writes<'_>, node_id: u64) -> Result<Outcome, StateError> {
    let key = node_id.to_be_bytes();
    let Some(record) = w.tables.nodes.get(&w.txn, &key)? else {
        return Ok(Outcome::Refused(format!("no node has, or had, the id {node_id}: nothing to retire")));
    };
    let node = decode(&key, record).map_err(|e| TableId::Nodes.damaged(e))?;
    if node.retired {
        return Ok(Outcome::None);
    }
    let record = [&[RETIRED, RECORD_VERSION], node.name.as_bytes()].concat();
    w.tables.nodes.put(&mut w.txn, &key, &record)?;
    w.changes.cluster = true;
    Ok(Outcome::None)
}

fn granted_id(key: &[u8]) -> Result<u64, DecodeError> {
    let bytes = key.try_into().map_err(|_| DecodeError::Invalid { what: "node id" })?;
    Ok(u64::from_be_bytes(bytes))
}

/// The node of a record.
pub(crate) fn decode<'t>(key: &[u8], record: &'t [u8]) -> Result<Node<'t>, DecodeError> {
    let id = granted_id(key)?;
    let mut from = Reader::new(record);
    let retired = record.first() == Some(&RETIRED);
    if retired {
        from.u8("mark")?;
        from.version("node record version", RECORD_VERSION)?;
    }
    let name = std::str::from_utf8(from.rest()).map_err(|_| DecodeError::Invalid { what: "node name" })?;
    Ok(Node { id, name, retired })
}

impl View {
    /// The node this id was granted to, whether it is a member now or not.
    pub fn node(&self, id: u64) -> Result<Option<Node<'_>>, StateError> {
        let key = id.to_be_bytes();
        let record = self.store.tables.nodes.get(&self.txn, &key)?;
        record.map(|record| decode(&key, record)).transpose().map_err(|e| TableId::Nodes.damaged(e))
    }

    /// Every node an id was ever granted to, by id.
    pub fn nodes(&self) -> Result<Vec<Node<'_>>, StateError> {
        let records = self.store.tables.nodes.under(&self.txn, &[])?;
        let node = |(key, value)| decode(key, value).map_err(|e| TableId::Nodes.damaged(e));
        records.map(|record| record.and_then(node)).collect()
    }

    /// Whether this id never speaks again. An id that was never granted is not retired.
    pub fn is_retired(&self, id: u64) -> Result<bool, StateError> {
        Ok(self.node(id)?.is_some_and(|node| node.retired))
    }
}
