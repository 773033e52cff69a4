//! `konsulctl cluster generate-token`, `tokens`, `revoke-token`: what lets nodes join.

use crate::{
    Context,
    client::{Ask, Payload},
    duration,
    exit::{Exit, UsageError},
    output,
    path::Path,
};
use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use konsul_api::{
    join_token::{JoinRole, JoinTokenAnswer, JoinTokenInfo, JoinTokenRequest, JoinTokenRevoked, JoinTokenState},
    token::{BOOTSTRAP_NODES_MAX, Purpose, RANDOM_BYTES, Token, TokenId},
};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Serialize;
use std::time::Duration;

/// `konsulctl cluster generate-token`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The token goes to stdout alone, so that a script can keep it. It is a secret until it expires.\n\n\
    Examples:\n  konsulctl cluster generate-token\n  konsulctl cluster generate-token --ttl 24h --uses 4\n  \
    konsulctl cluster generate-token --bootstrap --nodes 3   # asks no server"
)]
pub(crate) struct Generate {
    /// How long it can be used, 1m to 720h [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    ttl: Option<Duration>,
    /// How many nodes may join with it [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    uses: Option<u32>,
    /// What they become [default: voter]
    #[arg(long, value_enum)]
    role: Option<Role>,
    /// For fresh nodes that shall form a cluster by themselves: the same token for all of them
    #[arg(long, requires = "nodes", conflicts_with_all = ["ttl", "uses", "role"])]
    bootstrap: bool,
    /// How many those are
    #[arg(long, value_name = "N", requires = "bootstrap", value_parser = nodes())]
    nodes: Option<u32>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Role {
    /// Votes as soon as it has caught up
    Voter,
    /// Holds the data and never votes
    Learner,
}

fn nodes() -> impl clap::builder::TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(1..=i64::from(BOOTSTRAP_NODES_MAX))
}

/// A bootstrap token for `--json`.
#[derive(Debug, Serialize)]
struct Bootstrap {
    token: String,
    id: String,
    nodes: u32,
}

pub(super) async fn generate(args: &Generate, context: &Context) -> anyhow::Result<Exit> {
    if let Some(nodes) = args.nodes {
        return bootstrap(nodes, context);
    }
    let request = JoinTokenRequest {
        ttl: args.ttl.map(duration::query),
        uses: args.uses,
        role: args.role.map(|role| match role {
            Role::Voter => JoinRole::Voter,
            Role::Learner => JoinRole::Learner,
        }),
    };
    let body = serde_json::to_vec(&request).context("encode the request")?;
    let ask = Ask::post(Path::new("/v1/cluster/join-token"), Payload::Bytes(Bytes::from(body)));
    let answer: JoinTokenAnswer = context.client.json(&ask).await?;
    context.output.result(&answer, || answer.token.clone())?;
    let (who, id, until) = (nodes_text(answer.uses, role(answer.role)), &answer.id, &answer.expires_at);
    context.output.note(&format!(
        "For {who}, until {until}. On the new host: konsulctl cluster join TOKEN\n\
         To take it back: konsulctl cluster revoke-token {id}"
    ));
    Ok(Exit::Done)
}

/// Made here: there is no cluster yet that could be asked.
fn bootstrap(nodes: u32, context: &Context) -> anyhow::Result<Exit> {
    let mut random = [0; RANDOM_BYTES];
    SystemRandom::new().fill(&mut random).map_err(|_| anyhow!("the operating system gives no random numbers"))?;
    let token = Token::from_random(Purpose::Bootstrap { nodes }, Vec::new(), &random);
    let made = Bootstrap { token: token.render(), id: token.id().to_string(), nodes };
    context.output.result(&made, || made.token.clone())?;
    context.output.note(&format!(
        "Give it to {} before their first start; it is of no use once they have formed their cluster.",
        nodes_text(nodes, "fresh node")
    ));
    Ok(Exit::Done)
}

fn nodes_text(count: u32, what: &str) -> String {
    if count == 1 { format!("one {what}") } else { format!("{count} {what}s") }
}

fn role(role: JoinRole) -> &'static str {
    match role {
        JoinRole::Voter => "voter",
        JoinRole::Learner => "learner",
    }
}

fn state(state: JoinTokenState) -> &'static str {
    match state {
        JoinTokenState::Valid => "valid",
        JoinTokenState::Expired => "expired",
        JoinTokenState::UsedUp => "used up",
        JoinTokenState::Revoked => "revoked",
    }
}

pub(super) async fn list(context: &Context) -> anyhow::Result<Exit> {
    let tokens: Vec<JoinTokenInfo> = context.client.json(&Ask::get(Path::new("/v1/cluster/join-token"))).await?;
    let row = |t: &JoinTokenInfo| {
        let used_by: Vec<&str> = t.used_by.iter().map(|used| used.name.as_str()).collect();
        vec![
            t.id.clone(),
            state(t.state).to_owned(),
            role(t.role).to_owned(),
            format!("{} of {}", t.used_by.len(), t.uses),
            t.expires_at.clone(),
            t.created_from.clone(),
            if used_by.is_empty() { "-".to_owned() } else { used_by.join(", ") },
        ]
    };
    context.output.result(&tokens, || {
        if tokens.is_empty() {
            return "no tokens; make one with `konsulctl cluster generate-token`".to_owned();
        }
        output::table(&["ID", "STATE", "ROLE", "USED", "EXPIRES", "MADE FROM", "USED BY"], tokens.iter().map(row))
    })?;
    Ok(Exit::Done)
}

/// `konsulctl cluster revoke-token`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Nodes that have joined with it stay members.\n\n\
    Examples:\n  konsulctl cluster tokens\n  konsulctl cluster revoke-token abcdefg2")]
pub(crate) struct Revoke {
    /// Its id, as `cluster tokens` lists it; the token itself does as well
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) async fn revoke(args: &Revoke, context: &Context) -> anyhow::Result<Exit> {
    // Whoever has only the token left shall not have to know which part of it is the id. It must not travel.
    let id = TokenId::parse(&args.id).or_else(|| Token::parse(&args.id).ok().map(|token| token.id()));
    let id = id.ok_or_else(|| {
        UsageError("this is no token id: eight characters of a-z and 2-7; see `konsulctl cluster tokens`".to_owned())
    })?;
    let ask = Ask::delete(Path::new(&format!("/v1/cluster/join-token/{id}")));
    let revoked: JoinTokenRevoked = context.client.json(&ask).await?;
    context.output.result(&revoked, || format!("nobody joins with the token {} any more", revoked.id))?;
    Ok(Exit::Done)
}
