//! How often each address may ask: a bucket per address, in bounded memory.  Knows nothing about: what is asked.

use governor::clock::{Clock as _, MonotonicClock};
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// Addresses with a bucket of their own. While so many ask, large networks have one in common.
const ADDRESSES_MAX: usize = 65_536;
/// Questions between two looks at how many there are.
const LOOK: u32 = 1024;

/// How often one address may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateConfig {
    /// So many within `per`, in the long run; 0: as often as it likes.
    pub times: u32,
    pub per: Duration,
    /// So many at once.
    pub burst: NonZeroU32,
    /// Who may ask as often as they like.
    pub exempt: Vec<IpNet>,
}

/// A limit in force.
pub struct Rate {
    config: RateConfig,
    /// `None`: there is no limit.
    buckets: Option<Buckets>,
}

struct Buckets {
    limiter: RateLimiter<IpAddr, DashMapStateStore<IpAddr>, MonotonicClock>,
    until_look: AtomicU32,
    crowded: AtomicBool,
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rate").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Rate {
    pub fn new(config: RateConfig) -> Rate {
        let quota = Quota::with_period(config.per / config.times.max(1)).filter(|_| config.times > 0);
        let buckets = quota.map(|quota| Buckets {
            limiter: RateLimiter::new(quota.allow_burst(config.burst), DashMapStateStore::default(), MonotonicClock),
            until_look: AtomicU32::new(LOOK),
            crowded: AtomicBool::new(false),
        });
        Rate { config, buckets }
    }

    pub fn config(&self) -> &RateConfig {
        &self.config
    }

    /// `Err`: it asked too often; how long it should wait.
    pub fn ask(&self, from: IpAddr) -> Result<(), Duration> {
        let Some(buckets) = &self.buckets else { return Ok(()) };
        let from = from.to_canonical();
        if self.config.exempt.iter().any(|network| network.contains(&from)) {
            return Ok(());
        }
        buckets.ask(from)
    }
}

impl Buckets {
    fn ask(&self, from: IpAddr) -> Result<(), Duration> {
        // It wraps only while somebody looks, and then one look more is made.
        if self.until_look.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.look();
        }
        let key = if self.crowded.load(Ordering::Relaxed) { network(from) } else { household(from) };
        self.limiter.check_key(&key).map_err(|until| until.wait_time_from(MonotonicClock.now()))
    }

    fn look(&self) {
        if self.limiter.len() >= ADDRESSES_MAX {
            // Those whose bucket is full again are as good as new.
            self.limiter.retain_recent();
        }
        self.crowded.store(self.limiter.len() >= ADDRESSES_MAX, Ordering::Relaxed);
        self.until_look.store(LOOK, Ordering::Relaxed);
    }
}

/// Whose bucket an address has: a customer of IPv6 has 2^64 addresses.
fn household(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

/// One of few: the first 8 bits, or the first 16.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() >> 24 << 24)),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 112 << 112)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(times: u32, burst: u32, exempt: &[&str]) -> Rate {
        let (per, burst) = (Duration::from_secs(3600), NonZeroU32::new(burst).unwrap());
        let exempt = exempt.iter().map(|network| network.parse().unwrap()).collect();
        Rate::new(RateConfig { times, per, burst, exempt })
    }

    fn v4(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(n))
    }

    #[test]
    fn each_address_has_its_own_bucket_and_is_told_how_long_to_wait() {
        let rate = rate(60, 3, &[]);
        let asked: Vec<_> = (0..5).map(|_| rate.ask(v4(1))).collect();
        assert_eq!(asked[..3], [Ok(()); 3]);
        for refused in &asked[3..] {
            let wait = refused.unwrap_err();
            assert!(wait > Duration::from_secs(55) && wait <= Duration::from_secs(60), "one a minute: {wait:?}");
        }
        assert_eq!(rate.ask(v4(2)), Ok(()));
    }

    #[test]
    fn who_is_exempt_is_never_refused_and_without_a_limit_nobody_is() {
        let some = rate(1, 1, &["10.0.0.0/8", "::1/128"]);
        for from in ["10.1.2.3", "::ffff:10.1.2.3", "::1"] {
            assert!((0..100).all(|_| some.ask(from.parse().unwrap()).is_ok()), "{from}");
        }
        assert!(some.ask(v4(1)).is_ok() && some.ask(v4(1)).is_err());
        let off = rate(0, 1, &[]);
        assert!((0..100).all(|_| off.ask(v4(1)).is_ok()));
    }

    #[test]
    fn the_addresses_of_one_customer_of_ipv6_share_a_bucket() {
        let rate = rate(1, 1, &[]);
        let ask = |from: &str| rate.ask(from.parse().unwrap()).is_ok();
        assert!(ask("2001:db8:0:1::1") && !ask("2001:db8:0:1:ffff::2") && ask("2001:db8:0:2::1"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let rate = rate(1, 1, &[]);
        let allowed = (0..200_000u32).filter(|n| rate.ask(v4(n.wrapping_mul(0x9e37_79b9))).is_ok()).count();
        assert!(allowed >= ADDRESSES_MAX, "{allowed}");
        let remembered = rate.buckets.as_ref().unwrap().limiter.len();
        let look = usize::try_from(LOOK).unwrap();
        assert!(remembered >= ADDRESSES_MAX && remembered <= ADDRESSES_MAX + look + 512, "{remembered}");
    }
}
