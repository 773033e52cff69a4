//! Wake whoever waits for a change.  Knows nothing about: what a key means, HTTP, who leads.
//!
//! Waiting is level-triggered: a caller registers, looks, sleeps, and looks again. A wake-up says "look", never "what".
//!
//! One thread publishes; it must not pay for those who wait. Nobody waits: two atomic loads. Otherwise a hash lookup
//! per changed key, and one per changed key and *length* of a registered prefix, however many prefixes there are.
//!
//! There is no limit here: whoever registers belongs to a query, and `http` limits those (`http.watches_max`).

use konsul_state::{Changes, Index};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch::{Receiver, Sender};
use tokio::sync::{Notify, oneshot};

/// What somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// One key.
    Key(Box<[u8]>),
    /// Every key with this prefix.
    Prefix(Box<[u8]>),
}

/// All waiters of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Watches {
    shared: Arc<Shared>,
}

/// One registration; dropped, it is gone.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    target: Target,
    topic: Arc<Topic>,
    seen: u64,
}

/// When a target changed last, for as long as somebody is registered for it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LastChange {
    topic: Arc<Topic>,
}

/// Power of two, so that a mask picks the shard: waiters that come and go shall rarely meet the publisher.
const KEY_SHARDS: usize = 16;

#[derive(Debug)]
struct Shared {
    waiting: AtomicUsize,
    hasher: RandomState,
    keys: [Mutex<Topics>; KEY_SHARDS],
    prefixes: Mutex<Prefixes>,
    /// Registered prefixes; read without the lock to pass by when there is none.
    prefix_count: AtomicUsize,
    positions: Positions,
    /// The index published with the last change of what concerns the cluster itself.
    cluster: Sender<Index>,
}

type Topics = HashMap<Box<[u8]>, Arc<Topic>>;

#[derive(Debug, Default)]
struct Prefixes {
    topics: Topics,
    /// Length of a registered prefix → how many have it.
    lengths: BTreeMap<usize, usize>,
}

/// Everyone who waits for the same target.
#[derive(Debug, Default)]
struct Topic {
    /// Counts changes, so that one between registration and the first `changed` is not lost.
    version: AtomicU64,
    /// The index published with the last change.
    changed_at: AtomicU64,
    /// Guarded by the lock of the map the topic lives in.
    registrations: AtomicUsize,
    notify: Notify,
}

/// Those who wait for an index, in order: publishing wakes exactly those whose index has come.
#[derive(Debug)]
struct Positions {
    applied: AtomicU64,
    /// The lowest index anybody waits for; `u64::MAX` if nobody does.
    lowest: AtomicU64,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    next_ticket: u64,
    by_index: BTreeMap<(u64, u64), oneshot::Sender<()>>,
}

/// Takes its waiter out of the queue when the waiting future is dropped.
struct Place<'p> {
    positions: &'p Positions,
    at: (u64, u64),
}

/// The data behind our locks is whole at every point where a panic could occur, so poison means nothing here.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Watches {
    fn default() -> Watches {
        Watches::new()
    }
}

impl Watches {
    /// Nobody waits yet.
    pub fn new() -> Watches {
        let shared = Shared {
            waiting: AtomicUsize::new(0),
            hasher: RandomState::new(),
            keys: Default::default(),
            prefixes: Mutex::default(),
            prefix_count: AtomicUsize::new(0),
            positions: Positions {
                applied: AtomicU64::new(0),
                lowest: AtomicU64::new(u64::MAX),
                queue: Mutex::default(),
            },
            cluster: Sender::new(Index::ZERO),
        };
        Watches { shared: Arc::new(shared) }
    }

    /// After a commit: the state is now at `applied`, and this changed. Called by the one thread that applies.
    pub fn publish(&self, applied: Index, changes: &Changes) {
        // The fence pairs with the one in `on`: either we see the registration, or whoever registered sees the commit.
        fence(Ordering::SeqCst);
        if self.shared.waiting.load(Ordering::SeqCst) > 0 && !changes.is_empty() {
            self.shared.wake(applied, changes);
        }
        if changes.cluster || changes.all {
            self.shared.cluster.send_replace(applied);
        }
        // After the topics: who sees `applied` sees every topic that changed up to it.
        self.shared.positions.advance(applied);
    }

    /// Everybody who waits looks again, though nothing changed but what it may see.
    pub fn wake_all(&self) {
        self.shared.wake(self.applied(), &Changes { all: true, ..Changes::default() });
    }

    /// The index last published.
    pub fn applied(&self) -> Index {
        Index::new(self.shared.positions.applied.load(Ordering::SeqCst))
    }

    /// Waits until the state is at `index` or beyond.
    pub async fn applied_at_least(&self, index: Index) {
        let positions = &self.shared.positions;
        if positions.applied.load(Ordering::SeqCst) >= index.get() {
            return;
        }
        let Some((_place, come)) = positions.enqueue(index.get()) else {
            return;
        };
        // An error would mean that the sender is gone without a word: the queue lives as long as `self`.
        come.await.unwrap_or(());
    }

    /// Registers; look at the state after this, never before.
    pub fn on(&self, target: Target) -> Watch {
        self.shared.waiting.fetch_add(1, Ordering::SeqCst);
        let topic = self.shared.register(&target);
        let seen = topic.version.load(Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Watch { shared: self.shared.clone(), target, topic, seen }
    }

    /// Changes whenever a join token, one of the cluster's own records or the mark of a node may have. Register, then
    /// look at the state, then wait.
    pub fn on_cluster(&self) -> Receiver<Index> {
        self.shared.cluster.subscribe()
    }

    /// How many wait now.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::SeqCst)
    }
}

impl Watch {
    /// Waits until the target may have changed since the registration or since the last call returned.
    pub async fn changed(&mut self) {
        loop {
            let notified = self.topic.notify.notified();
            tokio::pin!(notified);
            // In the list before the look at the version: a change after the look finds us there.
            notified.as_mut().enable();
            let version = self.topic.version.load(Ordering::SeqCst);
            if version != self.seen {
                self.seen = version;
                return;
            }
            notified.await;
        }
    }

    /// When the target changed last.
    pub fn last_change(&self) -> LastChange {
        LastChange { topic: self.topic.clone() }
    }
}

impl LastChange {
    /// The index published with the last change since somebody has been registered; zero if there was none. What was
    /// read at this index or later, after a registration that still stands, is what the state holds.
    pub fn at(&self) -> Index {
        Index::new(self.topic.changed_at.load(Ordering::SeqCst))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.unregister(&self.target, &self.topic);
        self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    fn key_shard(&self, key: &[u8]) -> &Mutex<Topics> {
        let mask = u64::try_from(KEY_SHARDS - 1).expect("a small number");
        let shard = usize::try_from(self.hasher.hash_one(key) & mask).expect("masked to a small number");
        &self.keys[shard]
    }

    fn register(&self, target: &Target) -> Arc<Topic> {
        match target {
            Target::Key(key) => join(&mut locked(self.key_shard(key)), key).0,
            Target::Prefix(prefix) => {
                let mut prefixes = locked(&self.prefixes);
                let (topic, new) = join(&mut prefixes.topics, prefix);
                if new {
                    *prefixes.lengths.entry(prefix.len()).or_insert(0) += 1;
                    self.prefix_count.fetch_add(1, Ordering::SeqCst);
                }
                topic
            }
        }
    }

    fn unregister(&self, target: &Target, topic: &Topic) {
        match target {
            Target::Key(key) => {
                leave(&mut locked(self.key_shard(key)), key, topic);
            }
            Target::Prefix(prefix) => {
                let mut prefixes = locked(&self.prefixes);
                if !leave(&mut prefixes.topics, prefix, topic) {
                    return;
                }
                self.prefix_count.fetch_sub(1, Ordering::SeqCst);
                let same_length = prefixes.lengths.get_mut(&prefix.len()).expect("counted when it was registered");
                *same_length -= 1;
                if *same_length == 0 {
                    prefixes.lengths.remove(&prefix.len());
                }
            }
        }
    }

    /// Topics are collected under the locks and woken outside of them: waking is the long part.
    fn wake(&self, applied: Index, changes: &Changes) {
        let mut touched = Vec::new();
        if changes.all {
            for shard in &self.keys {
                touched.extend(locked(shard).values().cloned());
            }
            touched.extend(locked(&self.prefixes).topics.values().cloned());
        } else {
            for key in &changes.keys {
                touched.extend(locked(self.key_shard(key)).get(key).cloned());
            }
            if self.prefix_count.load(Ordering::SeqCst) > 0 {
                locked(&self.prefixes).collect(&changes.keys, &mut touched);
            }
        }
        for topic in touched {
            topic.changed_at.store(applied.get(), Ordering::SeqCst);
            topic.version.fetch_add(1, Ordering::SeqCst);
            topic.notify.notify_waiters();
        }
    }
}

impl Prefixes {
    fn collect(&self, keys: &[Box<[u8]>], touched: &mut Vec<Arc<Topic>>) {
        for key in keys {
            for &length in self.lengths.keys().take_while(|length| **length <= key.len()) {
                touched.extend(self.topics.get(&key[..length]).cloned());
            }
        }
    }
}

/// The topic of `name` with one more registration, and whether it is new.
fn join(topics: &mut Topics, name: &[u8]) -> (Arc<Topic>, bool) {
    if let Some(topic) = topics.get(name) {
        topic.registrations.fetch_add(1, Ordering::Relaxed);
        return (topic.clone(), false);
    }
    let topic = Arc::new(Topic { registrations: AtomicUsize::new(1), ..Topic::default() });
    topics.insert(name.into(), topic.clone());
    (topic, true)
}

/// Takes one registration away; whether the topic went with it.
fn leave(topics: &mut Topics, name: &[u8], topic: &Topic) -> bool {
    let last = topic.registrations.fetch_sub(1, Ordering::Relaxed) == 1;
    if last {
        topics.remove(name);
    }
    last
}

impl Positions {
    fn advance(&self, applied: Index) {
        self.applied.fetch_max(applied.get(), Ordering::SeqCst);
        // Pairs with `enqueue`: it lowers `lowest`, then looks at `applied`; we move `applied`, then look at `lowest`.
        if self.lowest.load(Ordering::SeqCst) > applied.get() {
            return;
        }
        let mut queue = locked(&self.queue);
        while let Some(first) = queue.by_index.first_entry() {
            if first.key().0 > applied.get() {
                break;
            }
            // An error means that the waiter was dropped meanwhile.
            first.remove().send(()).unwrap_or(());
        }
        self.store_lowest(&queue);
    }

    /// A place in the queue, or `None` if the index has come.
    fn enqueue(&self, index: u64) -> Option<(Place<'_>, oneshot::Receiver<()>)> {
        let (sender, receiver) = oneshot::channel();
        let mut queue = locked(&self.queue);
        let at = (index, queue.next_ticket);
        queue.next_ticket += 1;
        queue.by_index.insert(at, sender);
        self.store_lowest(&queue);
        let come = self.applied.load(Ordering::SeqCst) >= index;
        drop(queue);
        let place = Place { positions: self, at };
        (!come).then_some((place, receiver))
    }

    fn store_lowest(&self, queue: &Queue) {
        let lowest = queue.by_index.first_key_value().map_or(u64::MAX, |(at, _)| at.0);
        self.lowest.store(lowest, Ordering::SeqCst);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queue = locked(&self.positions.queue);
        if queue.by_index.remove(&self.at).is_some() {
            self.positions.store_lowest(&queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn key(name: &str) -> Target {
        Target::Key(name.as_bytes().into())
    }

    fn prefix(name: &str) -> Target {
        Target::Prefix(name.as_bytes().into())
    }

    fn changed(keys: &[&str]) -> Changes {
        Changes { keys: keys.iter().map(|k| k.as_bytes().into()).collect(), ..Changes::default() }
    }

    /// Whether a look at the watch, now, says "changed".
    fn fired(watch: &mut Watch) -> bool {
        watch.changed().now_or_never().is_some()
    }

    #[test]
    fn a_change_between_registration_and_the_first_wait_is_not_lost() {
        let watches = Watches::new();
        let mut watch = watches.on(key("a"));
        assert!(!fired(&mut watch));
        watches.publish(Index::new(5), &changed(&["a"]));
        assert!(fired(&mut watch));
        assert!(!fired(&mut watch), "one change wakes once");
        assert_eq!(watch.last_change().at(), Index::new(5));
    }

    #[tokio::test]
    async fn a_sleeping_waiter_is_woken() {
        let watches = Watches::new();
        let mut watch = watches.on(key("a"));
        let task = tokio::spawn(async move {
            watch.changed().await;
            watch.last_change().at()
        });
        tokio::task::yield_now().await;
        watches.publish(Index::new(1), &changed(&["b"]));
        watches.publish(Index::new(2), &changed(&["c", "a"]));
        assert_eq!(task.await.unwrap(), Index::new(2));
    }

    #[test]
    fn a_key_wakes_only_its_own_waiters() {
        let watches = Watches::new();
        let mut a = watches.on(key("a"));
        let mut ab = watches.on(key("ab"));
        watches.publish(Index::new(1), &changed(&["ab", "b"]));
        assert!(!fired(&mut a));
        assert!(fired(&mut ab));
    }

    #[test]
    fn a_prefix_is_a_prefix_of_bytes() {
        let watches = Watches::new();
        let table = [
            ("", true),
            ("a", true),
            ("a/", true),
            ("a/b", true),
            ("a/bc", true),
            ("a/bcd", false),
            ("b", false),
            ("a/c", false),
        ];
        let mut registered: Vec<_> = table.iter().map(|(p, hit)| (watches.on(prefix(p)), *p, *hit)).collect();
        watches.publish(Index::new(1), &changed(&["a/bc"]));
        for (watch, name, hit) in &mut registered {
            assert_eq!(fired(watch), *hit, "prefix {name:?}");
        }
    }

    #[test]
    fn a_restore_wakes_everyone() {
        let watches = Watches::new();
        let mut one = watches.on(key("a"));
        let mut two = watches.on(prefix("x/"));
        watches.publish(Index::new(1), &Changes { all: true, ..Changes::default() });
        assert!(fired(&mut one) && fired(&mut two));
    }

    #[test]
    fn whoever_looks_at_the_cluster_is_woken_by_its_changes_only() {
        let watches = Watches::new();
        let mut cluster = watches.on_cluster();
        let mut key = watches.on(key("a"));
        watches.publish(Index::new(1), &changed(&["a"]));
        assert!(!cluster.has_changed().unwrap() && fired(&mut key));
        watches.publish(Index::new(2), &Changes { cluster: true, ..Changes::default() });
        assert!(!fired(&mut key) && cluster.has_changed().unwrap());
        assert_eq!(*cluster.borrow_and_update(), Index::new(2));
        watches.publish(Index::new(3), &Changes { all: true, ..Changes::default() });
        assert!(cluster.has_changed().unwrap());
    }

    #[test]
    fn a_dropped_watch_leaves_nothing_behind() {
        let watches = Watches::new();
        let one = watches.on(prefix("x/"));
        let mut two = watches.on(prefix("x/"));
        let three = watches.on(key("k"));
        assert_eq!(watches.waiting(), 3);
        drop(one);
        watches.publish(Index::new(1), &changed(&["x/1"]));
        assert!(fired(&mut two), "the other registration stays");
        drop((two, three));
        assert_eq!(watches.waiting(), 0);
        let shared = &watches.shared;
        assert!(shared.keys.iter().all(|shard| locked(shard).is_empty()));
        let prefixes = locked(&shared.prefixes);
        assert!(prefixes.topics.is_empty() && prefixes.lengths.is_empty());
        assert_eq!(shared.prefix_count.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn an_index_wakes_those_whose_index_has_come_and_no_others() {
        let watches = Watches::new();
        let mut five = Box::pin(watches.applied_at_least(Index::new(5)));
        let mut seven = Box::pin(watches.applied_at_least(Index::new(7)));
        assert!((&mut five).now_or_never().is_none() && (&mut seven).now_or_never().is_none());
        watches.publish(Index::new(6), &Changes::default());
        assert_eq!(watches.applied(), Index::new(6));
        assert!((&mut five).now_or_never().is_some());
        assert!((&mut seven).now_or_never().is_none());
        drop(seven);
        assert!(locked(&watches.shared.positions.queue).by_index.is_empty(), "a dropped waiter leaves the queue");
        assert_eq!(watches.shared.positions.lowest.load(Ordering::SeqCst), u64::MAX);
        assert!(watches.applied_at_least(Index::new(6)).now_or_never().is_some());
    }

    #[test]
    fn no_wake_up_is_lost_between_threads() {
        let watches = Watches::new();
        let publisher = watches.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let waiters: Vec<_> = (0..8)
            .map(|n| {
                let watches = watches.clone();
                runtime.spawn(async move {
                    for round in 1..=500u64 {
                        let target = if n % 2 == 0 { key("k") } else { prefix("") };
                        let mut watch = watches.on(target);
                        // Look; sleep only if the state is not there yet. A lost wake-up hangs the test.
                        while watches.applied().get() < round {
                            watch.changed().await;
                            watches.applied_at_least(watch.last_change().at()).await;
                        }
                    }
                })
            })
            .collect();
        for index in 1..=500 {
            publisher.publish(Index::new(index), &changed(&["k"]));
            std::thread::yield_now();
        }
        runtime.block_on(async {
            for waiter in waiters {
                waiter.await.unwrap();
            }
        });
        assert_eq!(watches.waiting(), 0);
    }
}
