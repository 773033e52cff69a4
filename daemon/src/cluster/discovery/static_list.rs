//! Contact points from a fixed list of `host:port`. The names are resolved anew each time: the nodes behind them may
//! have come back under other addresses.

use super::resolver::addresses;
use super::track::Answer;
use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long a list of bare addresses is taken to hold; it is as good as for ever.
const LITERAL_TTL: Duration = Duration::from_secs(3600);

/// No seed could be resolved, and not because the names do not exist.
#[derive(Debug, thiserror::Error)]
#[error("resolve the seeds {seeds}")]
pub(super) struct SeedsError {
    seeds: String,
    #[source]
    source: Box<hickory_resolver::net::NetError>,
}

/// The addresses of the seeds, in the order of the list.
pub(super) async fn ask(seeds: &[String], resolver: &TokioResolver) -> Result<Answer, SeedsError> {
    let mut answer = Answer { points: Vec::new(), ttl: LITERAL_TTL, wrong: Vec::new() };
    let mut failed = None;
    for (seed, found) in seeds.iter().zip(join_all(seeds.iter().map(|seed| resolve(seed, resolver))).await) {
        match found {
            Ok(Some((points, ttl))) => {
                answer.ttl = answer.ttl.min(ttl);
                answer.points.extend(points);
            }
            Ok(None) => answer.wrong.push(format!("the seed {seed} has no address")),
            Err(source) => {
                answer.wrong.push(format!("the address of the seed {seed} could not be asked for"));
                failed = Some(source);
            }
        }
    }
    match failed {
        Some(source) if answer.points.is_empty() => {
            Err(SeedsError { seeds: seeds.join(", "), source: Box::new(source) })
        }
        Some(_) | None => Ok(answer),
    }
}

async fn resolve(
    seed: &str,
    resolver: &TokioResolver,
) -> Result<Option<(Vec<String>, Duration)>, hickory_resolver::net::NetError> {
    if seed.parse::<SocketAddr>().is_ok() {
        return Ok(Some((vec![seed.to_owned()], LITERAL_TTL)));
    }
    let (host, port) = seed.rsplit_once(':').expect("the configuration takes host:port only");
    let port: u16 = port.parse().expect("the configuration takes ports only");
    let point = |address: IpAddr| SocketAddr::new(address, port).to_string();
    let found = addresses(resolver, host).await?;
    Ok(found.map(|(addresses, ttl)| (addresses.into_iter().map(point).collect(), ttl)))
}

#[cfg(test)]
mod tests {
    use super::super::resolver::resolver;
    use super::*;

    #[tokio::test]
    async fn bare_addresses_need_no_dns() {
        // Nobody answers there.
        let nobody = resolver(Some("127.0.0.1:9".parse().unwrap())).unwrap();
        let seeds = ["10.0.0.2:8300".to_owned(), "[fd00::1]:8300".to_owned()];
        let answer = ask(&seeds, &nobody).await.unwrap();
        assert_eq!(answer.points, seeds);
        assert_eq!((answer.ttl, answer.wrong.len()), (LITERAL_TTL, 0));
    }
}
