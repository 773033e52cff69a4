//! What is there in a moment: whoever needs it waits for it, within bounds of time and number.  Knows nothing about: what
//! it is.

use crate::metrics::Gauge;
use std::time::Duration;
use tokio::sync::{Semaphore, SetOnce};

/// Who waits is a connection with an unread request; those beyond are told at once.
const WAITING_MAX: usize = 10_000;

/// Something that comes once.
pub(super) struct Awaited<T> {
    it: SetOnce<T>,
    places: Semaphore,
    waiting: Gauge,
}

/// One who waits, counted until it is dropped.
struct Waiter<'g>(&'g Gauge);

impl<'g> Waiter<'g> {
    fn count(waiting: &'g Gauge) -> Waiter<'g> {
        waiting.inc();
        Waiter(waiting)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl<T> Awaited<T> {
    /// `waiting` tells how many wait.
    pub(super) fn new(waiting: Gauge) -> Awaited<T> {
        Awaited { it: SetOnce::new(), places: Semaphore::new(WAITING_MAX), waiting }
    }

    /// Everybody who waits goes on.
    pub(super) fn came(&self, it: T) {
        assert!(self.it.set(it).is_ok(), "it comes once");
    }

    pub(super) fn now(&self) -> Option<&T> {
        self.it.get()
    }

    /// `None` if it did not come in time, or too many wait already.
    pub(super) async fn within(&self, patience: Duration) -> Option<&T> {
        let Ok(_place) = self.places.try_acquire() else { return self.now() };
        let _counted = Waiter::count(&self.waiting);
        tokio::time::timeout(patience, self.it.wait()).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn who_waits_has_it_when_it_comes_and_nobody_waits_longer_than_told() {
        let gauge = Gauge::default();
        let awaited = Arc::new(Awaited::new(gauge.clone()));
        assert_eq!(awaited.within(Duration::from_millis(20)).await, None);
        assert_eq!(awaited.within(Duration::ZERO).await, None);
        let waiter = tokio::spawn({
            let awaited = Arc::clone(&awaited);
            async move { awaited.within(LONG).await.copied() }
        });
        while gauge.get() == 0 {
            tokio::task::yield_now().await;
        }
        awaited.came(7);
        assert_eq!(waiter.await.unwrap(), Some(7));
        assert_eq!((awaited.within(Duration::ZERO).await, gauge.get()), (Some(&7), 0));
    }

    #[tokio::test]
    async fn one_too_many_waits_no_moment() {
        let (gauge, max) = (Gauge::default(), u64::try_from(WAITING_MAX).unwrap());
        let awaited = Arc::new(Awaited::<u32>::new(gauge.clone()));
        let waiters: Vec<_> = (0..WAITING_MAX)
            .map(|_| {
                let awaited = Arc::clone(&awaited);
                tokio::spawn(async move { awaited.within(LONG).await.copied() })
            })
            .collect();
        while gauge.get() < max {
            tokio::task::yield_now().await;
        }
        assert_eq!(tokio::time::timeout(LONG / 2, awaited.within(LONG)).await, Ok(None));
        waiters[0].abort();
        while gauge.get() == max {
            tokio::task::yield_now().await;
        }
        awaited.came(7);
        assert_eq!(awaited.within(LONG).await, Some(&7));
        for waiter in waiters.into_iter().skip(1) {
            assert_eq!(waiter.await.unwrap(), Some(7), "a place that is free again harms nobody");
        }
    }
}
