//! Who is connected right now: a node that is retired is cut off, not only kept out.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

/// The connections of members that are served.
#[derive(Debug, Clone, Default)]
pub(super) struct Present {
    connections: Arc<Mutex<Connections>>,
}

#[derive(Debug, Default)]
struct Connections {
    last: u64,
    served: HashMap<u64, (u64, CancellationToken)>,
}

/// One of them, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    present: Present,
    number: u64,
    /// Cancelled when the node is to be cut off.
    pub(super) cut: CancellationToken,
}

impl Present {
    /// One more connection of this node.
    pub(super) fn enter(&self, node_id: u64) -> Place {
        let cut = CancellationToken::new();
        let mut connections = self.lock();
        connections.last += 1;
        let number = connections.last;
        connections.served.insert(number, (node_id, cut.clone()));
        Place { present: self.clone(), number, cut }
    }

    /// The nodes that are connected.
    pub(super) fn nodes(&self) -> BTreeSet<u64> {
        self.lock().served.values().map(|(node_id, _)| *node_id).collect()
    }

    /// Ends every connection of this node.
    pub(super) fn cut(&self, node_id: u64) {
        let connections = self.lock();
        connections.served.values().filter(|(of, _)| *of == node_id).for_each(|(_, cut)| cut.cancel());
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().expect("no code panics while it holds this lock")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.present.lock().served.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_cut_off_on_all_its_connections_and_nobody_else_is() {
        let present = Present::default();
        let (first, second, other) = (present.enter(2), present.enter(2), present.enter(3));
        assert_eq!(present.nodes(), BTreeSet::from([2, 3]));
        present.cut(2);
        assert!(first.cut.is_cancelled() && second.cut.is_cancelled() && !other.cut.is_cancelled());
        drop((first, second));
        assert_eq!(present.nodes(), BTreeSet::from([3]));
    }
}
