//! The cluster's identity and the ids of its nodes.

use crate::codec::DecodeError;
use crate::schema::{TableId, sm};
use crate::writes::Writes;
use crate::{Index, Outcome, StateError};

/// Writes the cluster's identity, once.
pub(crate) fn form(w: &mut Writes<'_>, cluster_id: &[u8; 16]) -> Result<Outcome, StateError> {
    match w.tables.sm.get(&w.txn, sm::CLUSTER_ID)? {
        Some(formed) if formed == cluster_id => Ok(Outcome::None),
        Some(_) => Ok(Outcome::Refused("the cluster is formed already, under another id".to_owned())),
        None => {
            w.tables.sm.put(&mut w.txn, sm::CLUSTER_ID, cluster_id)?;
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
            Some((key, _)) => granted_id(key)?,
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
    Ok(Outcome::Admitted { node_id })
}

fn granted_id(key: &[u8]) -> Result<u64, StateError> {
    let bytes = key.try_into().map_err(|_| TableId::Nodes.damaged(DecodeError::Invalid { what: "node id" }))?;
    Ok(u64::from_be_bytes(bytes))
}
