//! Certificates of a cluster's own authority, made as the leader makes them.

use crate::fake::CLUSTER;
use konsuld::clock::Clock;
use konsuld::cluster::ca::{Ca, Subject, Term, request};
use konsuld::peer::{LocalIdentity, Transport};
use konsuld::tls::{Material, MemberId, Tls, TlsVersion};
use std::time::Duration;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn now_ms() -> u64 {
    Clock::start().wall().as_millis()
}

pub(crate) fn authority() -> Ca {
    Ca::create(CLUSTER, now_ms()).unwrap()
}

/// Issued some time ago, for an hour.
pub(crate) fn issued(ca: &Ca, node_id: u64, name: &str, ago: Duration) -> Material {
    let (key, csr) = request().unwrap();
    let subject = Subject { member: MemberId { cluster_id: CLUSTER, node_id }, name: name.to_owned() };
    let issued_ms = now_ms() - u64::try_from(ago.as_millis()).unwrap();
    let certificate = ca.issue(&csr, &subject, Term { now_ms: issued_ms, life: HOUR }).unwrap();
    Material { chain: vec![certificate], key: key.into(), roots: vec![ca.certificate().clone()], bridges: Vec::new() }
}

pub(crate) fn material(ca: &Ca, node_id: u64, name: &str) -> Material {
    issued(ca, node_id, name, Duration::ZERO)
}

pub(crate) fn tls(material: &Material) -> Tls {
    Tls::of(material, TlsVersion::V1_3).unwrap()
}

pub(crate) fn transport(material: &Material) -> Transport {
    Transport::Tls(tls(material))
}

pub(crate) fn member(node_id: u64, name: &str) -> LocalIdentity {
    LocalIdentity { cluster_id: Some(CLUSTER), node_id, name: name.to_owned(), epoch: 3 }
}
