//! Connections of those who have not said yet who they are: few at a time from each address, so that one host that
//! connects and says nothing does not keep the members out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// From one address. A member makes four or five connections at once; a few members may share an address.
const STRANGERS_MAX: usize = 32;

/// Who stands at the door.
#[derive(Debug, Clone, Default)]
pub(super) struct Door {
    waiting: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place at the door; free again when it is dropped.
#[derive(Debug)]
pub(super) struct AtDoor {
    door: Door,
    from: IpAddr,
}

impl Door {
    /// `None`: too many of that address stand there already.
    pub(super) fn step_up(&self, from: IpAddr) -> Option<AtDoor> {
        let mut waiting = self.waiting();
        let of_it = waiting.get(&from).copied().unwrap_or(0);
        if of_it >= STRANGERS_MAX {
            return None;
        }
        waiting.insert(from, of_it + 1);
        Some(AtDoor { door: self.clone(), from })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AtDoor {
    fn drop(&mut self) {
        let mut waiting = self.door.waiting();
        if let Some(of_it) = waiting.get_mut(&self.from) {
            *of_it -= 1;
            if *of_it == 0 {
                waiting.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_fill_the_door_and_nothing_is_kept_of_those_who_left() {
        let (door, crowd, other) = (Door::default(), IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut there: Vec<AtDoor> = (0..100).filter_map(|_| door.step_up(crowd)).collect();
        assert_eq!(there.len(), STRANGERS_MAX);
        assert!(door.step_up(other).is_some());
        there.pop();
        assert!(door.step_up(crowd).is_some() && there.len() == STRANGERS_MAX - 1);
        drop(there);
        assert!(door.waiting().is_empty());
    }
}
