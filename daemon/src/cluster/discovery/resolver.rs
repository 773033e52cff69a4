//! The DNS resolver. Made anew for each round, so that a changed resolv.conf counts and nothing is remembered here that
//! should be asked again.

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Record;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// One question to one server. Short, because a server that is down is not noticed otherwise; whoever has to ask others
/// first has the answer ready by the next round.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Behind the first try.
const RETRIES: usize = 1;

/// Asks this server, or those of the system.
pub(super) fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        Some(server) => TokioResolver::builder_with_config(only(server), TokioRuntimeProvider::default()),
        None => TokioResolver::builder_tokio()?,
    };
    let options = builder.options_mut();
    options.timeout = TIMEOUT;
    options.attempts = RETRIES;
    options.cache_size = 0;
    builder.build()
}

fn only(server: SocketAddr) -> ResolverConfig {
    let with_port = |mut connection: ConnectionConfig| {
        connection.port = server.port();
        connection
    };
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(with_port).to_vec();
    ResolverConfig::from_name_servers(vec![NameServerConfig::new(server.ip(), true, connections)])
}

/// The addresses of a host, and how long they hold. None: there is no such host.
pub(super) async fn addresses(
    resolver: &TokioResolver,
    host: &str,
) -> Result<Option<(Vec<IpAddr>, Duration)>, NetError> {
    match resolver.lookup_ip(host).await {
        Ok(found) => {
            let addresses: Vec<IpAddr> = found.iter().collect();
            let ttl = ttl(found.as_lookup().answers());
            Ok(Some((addresses, ttl)).filter(|(addresses, _)| !addresses.is_empty()))
        }
        Err(error) if error.is_no_records_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// How long all of these records hold.
pub(super) fn ttl(records: &[Record]) -> Duration {
    Duration::from_secs(records.iter().map(|record| u64::from(record.ttl)).min().unwrap_or(0))
}
