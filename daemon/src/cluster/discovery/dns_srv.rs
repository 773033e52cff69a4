//! Contact points from DNS: the SRV records of `_konsul._tcp.<domain>`, in the order that RFC 2782 asks for.
//!
//! A record that leads nowhere is skipped and told, the others are used. A domain without SRV records may instead have
//! addresses, if the configuration says on which port.

use super::resolver::{addresses, ttl};
use super::track::Answer;
use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{RData, RecordType};
use rand::Rng;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Which records to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// The domain the records are in.
    pub domain: String,
    /// What stands in front of it.
    pub service: String,
    /// The port of the addresses of the domain itself, taken if it has no SRV records.
    pub port: Option<u16>,
}

/// DNS gave no answer.
#[derive(Debug, thiserror::Error)]
#[error("ask DNS for {name}")]
pub(super) struct DnsError {
    name: String,
    #[source]
    source: Box<NetError>,
}

/// One SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Srv {
    priority: u16,
    weight: u16,
    port: u16,
    target: String,
}

/// More records than any cluster has nodes; the rest is not looked at.
const RECORDS_MAX: usize = 64;

/// Asks for the records and the addresses of their targets.
pub(super) async fn ask(config: &DnsConfig, resolver: &TokioResolver) -> Result<Answer, DnsError> {
    // A trailing dot: the domain is meant as it stands, not below the search domains of this host.
    let domain = format!("{}.", config.domain.trim_end_matches('.'));
    let name = format!("{}.{domain}", config.service);
    let records = match resolver.lookup(name.as_str(), RecordType::SRV).await {
        Ok(found) => found,
        Err(error) if error.is_no_records_found() => return without_records(config, resolver, &domain).await,
        Err(source) => return Err(DnsError { name, source: Box::new(source) }),
    };
    let holds = ttl(records.answers());
    let services = records.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(srv) => {
            Some(Srv { priority: srv.priority, weight: srv.weight, port: srv.port, target: srv.target.to_ascii() })
        }
        // The CNAME records on the way there.
        _ => None,
    });
    let (usable, mut wrong) = sort_out(&name, services.take(RECORDS_MAX));
    let ordered = order(usable, &mut rand::rng());
    let resolved = join_all(ordered.iter().map(|srv| addresses(resolver, &srv.target))).await;
    let mut answer = Answer { points: Vec::new(), ttl: holds, wrong: Vec::new() };
    let mut failed = None;
    for (srv, found) in ordered.iter().zip(resolved) {
        match found {
            Ok(Some((addresses, holds))) => {
                answer.ttl = answer.ttl.min(holds);
                answer.points.extend(points(&addresses, srv.port));
            }
            Ok(None) => wrong.push(format!("{name} names {}, which has no address", srv.target)),
            Err(source) => {
                wrong.push(format!("{name} names {}, whose address could not be asked for", srv.target));
                failed = Some(DnsError { name: srv.target.clone(), source: Box::new(source) });
            }
        }
    }
    answer.wrong = wrong;
    match failed {
        // Not "there is nobody": what was found before stays in use.
        Some(error) if answer.points.is_empty() => Err(error),
        Some(_) | None => Ok(answer),
    }
}

/// The addresses of the domain itself, if there is a port to go with them.
async fn without_records(config: &DnsConfig, resolver: &TokioResolver, domain: &str) -> Result<Answer, DnsError> {
    let nothing = Answer { points: Vec::new(), ttl: Duration::ZERO, wrong: Vec::new() };
    let Some(port) = config.port else {
        return Ok(nothing);
    };
    let found = addresses(resolver, domain).await;
    let found = found.map_err(|source| DnsError { name: domain.to_owned(), source: Box::new(source) })?;
    Ok(found.map_or(nothing, |(addresses, ttl)| Answer { points: points(&addresses, port), ttl, wrong: Vec::new() }))
}

fn points(addresses: &[IpAddr], port: u16) -> Vec<String> {
    addresses.iter().map(|address| SocketAddr::new(*address, port).to_string()).collect()
}

/// Parts what can be tried from what cannot.
fn sort_out(name: &str, records: impl Iterator<Item = Srv>) -> (Vec<Srv>, Vec<String>) {
    let (mut usable, mut wrong) = (Vec::new(), Vec::new());
    for srv in records {
        if srv.target == "." {
            wrong.push(format!("{name} says that the service is not there (its target is the root)"));
        } else if srv.port == 0 {
            wrong.push(format!("{name} names {} with port 0", srv.target));
        } else {
            usable.push(srv);
        }
    }
    (usable, wrong)
}

/// Lowest priority value first; within one, drawn by weight: a record of weight 20 comes before one of weight 10 twice
/// as often as behind it, and one of weight 0 is all but last (RFC 2782).
fn order(mut records: Vec<Srv>, chance: &mut impl Rng) -> Vec<Srv> {
    // Those of weight 0 first, as the RFC has it; by target, so that the outcome depends on `chance` alone.
    records.sort_by(|a, b| (a.priority, a.weight, &a.target, a.port).cmp(&(b.priority, b.weight, &b.target, b.port)));
    records.dedup();
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(first) = records.first() {
        let priority = first.priority;
        let group = records.iter().take_while(|srv| srv.priority == priority);
        let total: u64 = group.clone().map(|srv| u64::from(srv.weight)).sum();
        let drawn = chance.random_range(0..=total);
        let sums = group.scan(0, |sum, srv| {
            *sum += u64::from(srv.weight);
            Some(*sum)
        });
        let at = sums.take_while(|sum| *sum < drawn).count();
        ordered.push(records.remove(at));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use std::collections::BTreeMap;

    fn srv(priority: u16, weight: u16, target: &str) -> Srv {
        Srv { priority, weight, port: 8300, target: target.into() }
    }

    fn targets(records: &[Srv]) -> String {
        records.iter().map(|srv| srv.target.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// How often each order comes up in 10,000 draws.
    fn orders(records: &[Srv]) -> BTreeMap<String, u32> {
        let mut chance = StdRng::seed_from_u64(7);
        let mut found = BTreeMap::new();
        for _ in 0..10_000 {
            *found.entry(targets(&order(records.to_vec(), &mut chance))).or_default() += 1;
        }
        found
    }

    #[test]
    fn priorities_are_kept_whatever_the_weights() {
        let table: [(&[Srv], &[&str]); 4] = [
            (&[], &[""]),
            (&[srv(20, 900, "c"), srv(10, 0, "b"), srv(5, 1, "a")], &["a b c"]),
            (&[srv(1, 5, "a"), srv(1, 5, "a")], &["a"]),
            (&[srv(2, 1, "x"), srv(1, 1, "b"), srv(1, 1, "a")], &["a b x", "b a x"]),
        ];
        for (records, expected) in table {
            let found = orders(records);
            assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), expected, "{records:?}");
        }
    }

    #[test]
    fn weights_are_odds() {
        let found = orders(&[srv(1, 30, "a"), srv(1, 10, "b")]);
        // 0..=40 is drawn: a comes first for 11..=40, 30 of 41.
        let share = f64::from(found["a b"]) / 10_000.0;
        assert!((0.70..0.77).contains(&share), "{found:?}");
        let found = orders(&[srv(1, 99, "a"), srv(1, 0, "b")]);
        assert!((50..200).contains(&found["b a"]), "weight 0 is seldom first, but not never: {found:?}");
    }

    #[test]
    fn equal_weights_of_zero_do_not_starve_the_rest() {
        let found = orders(&[srv(1, 0, "a"), srv(1, 0, "b")]);
        // With a sum of 0 there is nothing to draw by: the order is fixed, and both are there.
        assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), ["a b"]);
    }

    #[test]
    fn records_that_lead_nowhere_are_sorted_out() {
        let records = [srv(1, 1, "a."), Srv { port: 0, ..srv(1, 1, "b.") }, srv(0, 0, ".")];
        let (usable, wrong) = sort_out("_konsul._tcp.x.", records.into_iter());
        assert_eq!(usable, [srv(1, 1, "a.")]);
        assert_eq!(
            wrong,
            [
                "_konsul._tcp.x. names b. with port 0",
                "_konsul._tcp.x. says that the service is not there (its target is the root)"
            ]
        );
    }

    #[test]
    fn addresses_of_both_families_make_contact_points() {
        let found = points(&["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()], 8300);
        assert_eq!(found, ["127.0.0.1:8300", "[::1]:8300"]);
    }
}
