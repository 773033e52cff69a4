//! `konsulctl cluster`: what Consul's API does not tell.

use super::compare;
use super::membership::{self, Change};
use super::restart;
use super::snapshot::{self as cmd_snapshot, Konsuld, Restore, RestoreHow, Save, Snapshot};
use super::token;
use crate::{
    Context,
    client::{Ask, Payload},
    exit::Exit,
    output,
    path::Path,
};
use anyhow::Context as _;
use bytes::Bytes;
use konsul_api::cluster::{
    ClusterStatus, DigestAnswer, EnteredAnswer, JoinClusterRequest, Leader, Member, Role, SnapshotAnswer,
    TransferAnswer, TransferRequest,
};
use konsul_api::token::Token;
use std::path::PathBuf;
use std::time::Duration;

/// Forming and joining take a few elections, or a copy of the data.
const ENTER: Duration = Duration::from_secs(60);
/// A snapshot of a large state takes minutes.
const SNAPSHOT: Duration = Duration::from_secs(600);

/// `konsulctl cluster …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Cluster {
    /// Form a new cluster, with the answering node as its first member
    #[command(
        after_help = "Examples:\n  konsulctl cluster init\n  konsulctl cluster init && konsulctl cluster generate-token"
    )]
    Init,
    /// Have the answering node join a cluster
    #[command(
        after_help = "Examples:\n  konsulctl cluster join konsul-join-v1.…\n  konsulctl cluster join --via 10.0.0.1:8300 - <token.txt"
    )]
    Join {
        /// What `konsulctl cluster generate-token` printed on a member; `-`: read it from standard input
        #[arg(value_name = "TOKEN")]
        token: String,
        /// Where a member listens for its peers; repeated or with commas [default: what the token and discovery name]
        #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
        via: Vec<String>,
    },
    /// Show the cluster as the answering node sees it
    #[command(after_help = "Examples:\n  konsulctl cluster status\n  konsulctl cluster status --json")]
    Status,
    /// Tell who leads; exit code 1 if nobody does
    Leader,
    /// List the members
    Peers,
    /// Have the answering node snapshot its state, so that its log can be purged; or save and restore the whole cluster
    #[command(
        after_help = "Examples:\n  konsulctl cluster snapshot\n  konsulctl cluster snapshot save --file backup.kbs\n  \
            konsulctl cluster snapshot restore --file backup.kbs --dry-run"
    )]
    Snapshot {
        #[command(subcommand)]
        what: Option<Whole>,
    },
    /// Hand leadership to another voter
    #[command(
        after_help = "Examples:\n  konsulctl cluster transfer-leadership\n  konsulctl cluster transfer-leadership --to n2"
    )]
    TransferLeadership {
        /// Name or id of the new leader [default: the follower that is furthest]
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
    },
    /// Tell whether the answering node may restart without the cluster missing it
    CanRestart(restart::CanRestart),
    /// Have a node leave the cluster: it hands over what it does, is removed, and stops
    #[command(
        after_help = "Refused if the cluster would stop, or survive less than before; the latter can be forced.\n\n\
            Examples:\n  konsulctl cluster leave\n  konsulctl cluster leave --node-id 3"
    )]
    Leave {
        /// Id or name of the node [default: the answering one]
        #[arg(long, value_name = "NODE")]
        node_id: Option<String>,
        #[command(flatten)]
        force: Force,
    },
    /// Remove a member for good, dead or alive; to come back it has to start empty
    #[command(after_help = "Examples:\n  konsulctl cluster remove n3\n  konsulctl cluster remove 3 --force")]
    Remove {
        /// Id or name of the node
        node: String,
        #[command(flatten)]
        force: Force,
    },
    /// Have a learner vote, at once if it is caught up
    Promote {
        /// Id or name of the node
        node: String,
    },
    /// Have a voter be a learner, which autopilot does not promote
    Demote {
        /// Id or name of the node
        node: String,
        #[command(flatten)]
        force: Force,
    },
    /// Print a hash of the replicated state, equal on every node at the same index
    Digest {
        /// Take it at this log index
        #[arg(long, value_name = "N")]
        index: Option<u64>,
    },
    /// Compare the states of all members now; exit code 1 if they are not all known and the same
    Compare,
    /// Make a token with which nodes join
    GenerateToken(token::Generate),
    /// List the tokens, without their secrets
    Tokens,
    /// Revoke a token: nobody joins with it any more
    RevokeToken(token::Revoke),
}

/// The whole state, as `konsulctl snapshot` has it.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Whole {
    /// As `konsulctl snapshot save`
    Save {
        /// The file
        #[arg(long)]
        file: PathBuf,
        #[command(flatten)]
        konsuld: Konsuld,
    },
    /// As `konsulctl snapshot restore`
    Restore {
        /// A file written by `snapshot save`
        #[arg(long)]
        file: PathBuf,
        #[command(flatten)]
        how: RestoreHow,
    },
}

/// A warning that was read.
#[derive(Debug, clap::Args)]
pub(crate) struct Force {
    /// Also if the cluster survives less failures than before; what would stop it is refused in any case
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(cluster: Cluster, context: &Context) -> anyhow::Result<Exit> {
    match cluster {
        Cluster::Init => init(context).await,
        Cluster::Join { token, via } => join(token, via, context).await,
        Cluster::Status => status(context).await,
        Cluster::Leader => leader(context).await,
        Cluster::Peers => peers(context).await,
        Cluster::Snapshot { what: None } => snapshot(context).await,
        Cluster::Snapshot { what: Some(Whole::Save { file, konsuld }) } => {
            cmd_snapshot::run(Snapshot::Save(Save::to_file(file, konsuld)), context).await
        }
        Cluster::Snapshot { what: Some(Whole::Restore { file, how }) } => {
            cmd_snapshot::run(Snapshot::Restore(Restore::of_file(file, how)), context).await
        }
        Cluster::TransferLeadership { to } => transfer(to, context).await,
        Cluster::CanRestart(args) => restart::run(&args, context).await,
        Cluster::Leave { node_id, force } => membership::run(Change::Leave, node_id, force.force, context).await,
        Cluster::Remove { node, force } => membership::run(Change::Remove, Some(node), force.force, context).await,
        Cluster::Promote { node } => membership::run(Change::Promote, Some(node), false, context).await,
        Cluster::Demote { node, force } => membership::run(Change::Demote, Some(node), force.force, context).await,
        Cluster::Digest { index } => digest(index, context).await,
        Cluster::Compare => compare::run(context).await,
        Cluster::GenerateToken(args) => token::generate(&args, context).await,
        Cluster::Tokens => token::list(context).await,
        Cluster::RevokeToken(args) => token::revoke(&args, context).await,
    }
}

async fn init(context: &Context) -> anyhow::Result<Exit> {
    let ask = Ask::post(Path::new("/v1/cluster/init"), Payload::Nothing).patient(ENTER);
    let entered: EnteredAnswer = context.client.json(&ask).await?;
    context.output.result(&entered, || {
        format!(
            "Cluster {} is formed; {} is its first member.\n\nTo add a node, here:       konsulctl cluster generate-token\n\
             then on the new node:    konsulctl cluster join TOKEN",
            entered.cluster_id, entered.name
        )
    })?;
    Ok(Exit::Done)
}

async fn join(token: String, via: Vec<String>, context: &Context) -> anyhow::Result<Exit> {
    // A token on standard input is in no list of processes and in no history.
    let token = match token.as_str() {
        "-" => std::io::read_to_string(std::io::stdin()).context("read the token from standard input")?,
        _ => token,
    };
    // Wrong ones are found here: they need not travel.
    let token = token.trim().to_owned();
    Token::parse(&token)?;
    let request = serde_json::to_vec(&JoinClusterRequest { token, via }).context("encode the request")?;
    let ask = Ask::post(Path::new("/v1/cluster/join"), Payload::Bytes(Bytes::from(request))).patient(ENTER);
    let entered: EnteredAnswer = context.client.json(&ask).await?;
    context.output.result(&entered, || {
        format!(
            "{} is node {} of cluster {}; it votes as soon as it has caught up: see `konsulctl cluster status`",
            entered.name, entered.node_id, entered.cluster_id
        )
    })?;
    Ok(Exit::Done)
}

async fn status(context: &Context) -> anyhow::Result<Exit> {
    let status: ClusterStatus = context.client.json(&Ask::get(Path::new("/v1/cluster/status"))).await?;
    context.output.result(&status, || match status.members.as_slice() {
        [] => head(&status),
        them => format!("{}\n\n{}", head(&status), members(them)),
    })?;
    Ok(Exit::Done)
}

fn head(status: &ClusterStatus) -> String {
    if let Some(waiting) = &status.node.waiting {
        let mut pairs = vec![("Cluster", "none yet".to_owned()), ("Node", status.node.name.clone())];
        pairs.push(("Now", waiting.clone()));
        if !status.node.contacts.is_empty() {
            pairs.push(("Contacts", status.node.contacts.join(", ")));
        }
        return output::fields(&pairs);
    }
    let voters = status.members.iter().filter(|m| m.voter).count();
    let node = &status.node;
    let mut pairs = vec![
        ("Cluster", if status.cluster_id.is_empty() { "none yet".to_owned() } else { status.cluster_id.clone() }),
        ("Leader", status.leader.as_ref().map_or_else(|| "none".to_owned(), |l| format!("{} ({})", l.name, l.http))),
        ("Term", node.term.to_string()),
        ("Quorum", format!("{} of {voters} voters{}", quorum(voters), if status.has_quorum { "" } else { ", lost" })),
        ("Failure tolerance", status.failure_tolerance.to_string()),
        ("Healthy", status.healthy.map_or_else(|| "the leader knows".to_owned(), |h| yes_no(h).to_owned())),
        ("Answered by", format!("{} ({}, version {})", node.name, role(node.role), node.version)),
        (
            "Index",
            format!(
                "last {}, committed {}, applied {}, snapshot {}",
                node.last_log_index, node.commit_index, node.applied_index, node.snapshot_index
            ),
        ),
    ];
    if let Some(own) = &node.certificate {
        let by = own.authority.map_or_else(|| "from files".to_owned(), |number| format!("of authority {number}"));
        pairs.push(("Certificate", format!("until {} ({by})", own.not_after)));
    }
    pairs.extend(node.warnings.iter().map(|warning| ("Warning", warning.clone())));
    if let Some(reason) = &node.read_only {
        pairs.push(("Read only", reason.clone()));
    }
    if let Some(reason) = &node.fenced {
        pairs.push(("Fenced", reason.clone()));
    }
    output::fields(&pairs)
}

/// Majority of that many voters.
fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

fn members(members: &[Member]) -> String {
    let row = |m: &Member| {
        vec![
            m.name.clone(),
            m.id.to_string(),
            role(m.role).to_owned(),
            yes_no(m.voter).to_owned(),
            m.rpc.clone(),
            m.http.clone(),
            m.lag.map_or_else(unknown, |lag| lag.to_string()),
            m.last_contact_ms.map_or_else(unknown, |ms| format!("{ms} ms")),
            m.encryption.clone().unwrap_or_else(unknown),
        ]
    };
    let columns = ["NODE", "ID", "ROLE", "VOTER", "RPC", "HTTP", "LAG", "LAST CONTACT", "ENCRYPTION"];
    output::table(&columns, members.iter().map(row))
}

fn unknown() -> String {
    "-".to_owned()
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Joining => "joining",
    }
}

async fn leader(context: &Context) -> anyhow::Result<Exit> {
    let leader: Option<Leader> = context.client.json(&Ask::get(Path::new("/v1/cluster/leader"))).await?;
    context.output.result(&leader, || {
        leader.as_ref().map_or_else(
            || "no leader; see `konsulctl cluster status`".to_owned(),
            |l| {
                output::fields(&[
                    ("Node", l.name.clone()),
                    ("Id", l.id.to_string()),
                    ("RPC", l.rpc.clone()),
                    ("HTTP", l.http.clone()),
                ])
            },
        )
    })?;
    Ok(if leader.is_some() { Exit::Done } else { Exit::Failed })
}

async fn peers(context: &Context) -> anyhow::Result<Exit> {
    let peers: Vec<Member> = context.client.json(&Ask::get(Path::new("/v1/cluster/peers"))).await?;
    context.output.result(&peers, || members(&peers))?;
    Ok(Exit::Done)
}

async fn snapshot(context: &Context) -> anyhow::Result<Exit> {
    let ask = Ask::put(Path::new("/v1/cluster/snapshot"), Payload::Nothing).patient(SNAPSHOT);
    let answer: SnapshotAnswer = context.client.json(&ask).await?;
    context.output.result(&answer, || {
        output::fields(&[
            ("Index", answer.index.to_string()),
            ("Term", answer.term.to_string()),
            ("Bytes", answer.bytes.to_string()),
            ("SHA-256", answer.sha256.clone()),
        ])
    })?;
    Ok(Exit::Done)
}

async fn transfer(to: Option<String>, context: &Context) -> anyhow::Result<Exit> {
    let payload = match to {
        None => Payload::Nothing,
        Some(_) => {
            let request = serde_json::to_vec(&TransferRequest { to }).context("encode the request")?;
            Payload::Bytes(Bytes::from(request))
        }
    };
    let ask = Ask::put(Path::new("/v1/cluster/transfer-leadership"), payload);
    let answer: TransferAnswer = context.client.json(&ask).await?;
    context.output.result(&answer, || {
        format!("{} leads instead of {}, after {} ms", answer.to.name, answer.from.name, answer.took_ms)
    })?;
    Ok(Exit::Done)
}

async fn digest(index: Option<u64>, context: &Context) -> anyhow::Result<Exit> {
    let mut path = Path::new("/v1/cluster/digest");
    if let Some(index) = index {
        path = path.with("index", &index.to_string());
    }
    let answer: DigestAnswer = context.client.json(&Ask::get(path)).await?;
    context.output.result(&answer, || format!("{} at index {}", answer.digest, answer.index))?;
    Ok(Exit::Done)
}
