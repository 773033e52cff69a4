//! `konsulctl recover`: going on with one node when a majority of the voters is lost for good.
//!
//! What is left of each node is read by the daemon's program; who goes on is decided here, by a pure rule.

use super::snapshot::Konsuld;
use crate::{
    Context,
    exit::{Exit, Stopped, UsageError},
    output,
};
use anyhow::Context as _;
use konsul_api::recover::{NodeLeft, RecoverAnswer, RecoverPlan};
use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, BufRead as _, IsTerminal as _},
    path::{Path, PathBuf},
    process::Stdio,
};

/// `konsulctl recover …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Recover {
    /// Read what is left of a node that does not run
    #[command(after_help = "Run it on each host that still has data, and take the answers to one place.\n\n\
        Examples:\n  konsulctl recover inspect --json >n1.json\n  konsulctl recover inspect /mnt/old-disk/konsul\n\n\
        Exit codes: 0 it was read, damaged or not, 1 failed, 2 wrong usage, 3 no node's data is there, or the node runs")]
    Inspect {
        /// Its data directory [default: that of the configuration]
        dir: Option<PathBuf>,
        #[command(flatten)]
        node: Node,
    },
    /// Tell which node should go on, and what may be lost
    #[command(
        after_help = "Refused while a majority still has its data: then start those nodes, and nothing is lost.\n\n\
        Examples:\n  konsulctl recover plan n1.json n3.json --json >plan.json\n  konsulctl recover plan /var/lib/konsul\n\n\
        Exit codes: 0 there is a plan, 1 failed, 2 wrong usage, 3 nothing is to be recovered, 4 nothing sound is left"
    )]
    Plan {
        /// Answers of `recover inspect --json`, or data directories
        #[arg(required = true)]
        sources: Vec<PathBuf>,
        #[command(flatten)]
        node: Node,
    },
    /// Make the survivor of a plan, which is on this host and does not run, the only voter of the cluster
    #[command(
        after_help = "The data is copied first. The cluster keeps its identity and gets a new epoch: nodes that come \
        back from before are refused and stop. They rejoin with empty data directories.\n\n\
        What nobody can prevent: a majority of the old nodes that comes back where it cannot reach the survivor goes on by \
        itself until it can. So make sure that the others are off, or cannot be reached by clients.\n\n\
        Examples:\n  konsulctl recover apply --plan plan.json --dry-run\n  \
        konsulctl recover apply --plan plan.json --yes && systemctl start konsul\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not possible as things are, 4 the data is damaged"
    )]
    Apply {
        /// The answer of `recover plan --json`
        #[arg(long, value_name = "FILE")]
        plan: PathBuf,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Tell what would be, and change nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        node: Node,
    },
}

/// The node on this host.
#[derive(Debug, clap::Args)]
pub(crate) struct Node {
    /// The node's configuration file [default: that of konsuld]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    konsuld: Konsuld,
}

impl Node {
    fn run<T: serde::de::DeserializeOwned>(&self, args: &[&OsStr]) -> anyhow::Result<T> {
        let mut all: Vec<&OsStr> = Vec::new();
        if let Some(config) = &self.config {
            all.extend([OsStr::new("--config"), config.as_os_str()]);
        }
        all.extend(args);
        self.konsuld.run(&all, Stdio::null())
    }

    fn inspect(&self, dir: Option<&Path>) -> anyhow::Result<NodeLeft> {
        let mut args: Vec<&OsStr> = vec!["data".as_ref(), "inspect".as_ref()];
        args.extend(dir.map(Path::as_os_str));
        self.run(&args)
    }
}

pub(crate) fn run(recover: Recover, context: &Context) -> anyhow::Result<Exit> {
    match recover {
        Recover::Inspect { dir, node } => {
            let left = node.inspect(dir.as_deref())?;
            context.output.result(&left, || described(&left))?;
            Ok(Exit::Done)
        }
        Recover::Plan { sources, node } => {
            let lefts: anyhow::Result<Vec<NodeLeft>> = sources.iter().map(|source| read(source, &node)).collect();
            let plan = plan(lefts?)?;
            context.output.result(&plan, || in_words(&plan))?;
            Ok(Exit::Done)
        }
        Recover::Apply { plan, yes, dry_run, node } => apply(&plan, (yes, dry_run), &node, context),
    }
}

fn read(source: &Path, node: &Node) -> anyhow::Result<NodeLeft> {
    if source.is_dir() {
        return node.inspect(Some(source));
    }
    let text = fs::read(source).with_context(|| format!("read {}", source.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is no answer of `konsulctl recover inspect --json`", source.display()))
}

/// Who goes on: the furthest of those that are sound and of the newest epoch.
fn plan(mut nodes: Vec<NodeLeft>) -> anyhow::Result<RecoverPlan> {
    nodes.sort_by_key(|node| std::cmp::Reverse((node.damage.is_none(), node.epoch, node.last, node.node_id)));
    let usable = |node: &&NodeLeft| node.damage.is_none() && node.left_behind.is_none() && !node.cluster_id.is_empty();
    let Some(survivor) = nodes.iter().find(usable).cloned() else {
        let text = "nothing sound is left of any of these nodes; restore a backup: `konsulctl snapshot restore`";
        return Err(Stopped::because(Exit::Damaged, text));
    };
    if let Some(other) = nodes.iter().filter(usable).find(|node| node.cluster_id != survivor.cluster_id) {
        let text = format!(
            "{} is of cluster {}, {} of cluster {}: plan with the nodes of one cluster",
            survivor.name, survivor.cluster_id, other.name, other.cluster_id
        );
        return Err(UsageError(text).into());
    }
    let voters: Vec<_> = survivor.members.iter().filter(|member| member.voter).collect();
    let majority = voters.len() / 2 + 1;
    let is_there = |id: u64| nodes.iter().filter(usable).any(|node| node.node_id == id && node.epoch == survivor.epoch);
    let there: Vec<&str> =
        voters.iter().filter(|member| is_there(member.id)).map(|member| member.name.as_str()).collect();
    if there.len() >= majority {
        let text = format!(
            "{} of {} voters still have their data ({}), and {majority} are a majority: start them, and nothing is lost. \
             Nothing is to be recovered",
            there.len(),
            voters.len(),
            there.join(", ")
        );
        return Err(Stopped::because(Exit::Precondition, text));
    }
    let missing: Vec<String> =
        voters.iter().filter(|member| !is_there(member.id)).map(|member| member.name.clone()).collect();
    let warnings = warnings(&survivor, &nodes, &missing, majority);
    Ok(RecoverPlan {
        cluster_id: survivor.cluster_id.clone(),
        epoch: survivor.epoch,
        majority: u64::try_from(majority).unwrap_or(u64::MAX),
        survivor,
        nodes,
        missing,
        warnings,
    })
}

fn warnings(survivor: &NodeLeft, nodes: &[NodeLeft], missing: &[String], majority: usize) -> Vec<String> {
    let last = survivor.last.index;
    let mut warnings = Vec::new();
    if missing.len() >= majority {
        warnings.push(format!(
            "{} are a majority by themselves: what they acknowledged behind index {last} without {} is lost, and how much \
             that is cannot be told",
            missing.join(", "),
            survivor.name
        ));
    }
    if survivor.committed < last {
        warnings.push(format!(
            "entries {} to {last} of {} may never have been acknowledged; they are kept",
            survivor.committed + 1,
            survivor.name
        ));
    }
    if !survivor.members.iter().any(|member| member.id == survivor.node_id && member.voter) {
        warnings.push(format!("{} was no voter; it becomes one", survivor.name));
    }
    for node in nodes.iter().filter(|node| node.damage.is_some() || node.left_behind.is_some()) {
        let why = node.damage.as_deref().or(node.left_behind.as_deref()).unwrap_or_default();
        warnings.push(format!("{} is of no use: {why}", node.data_dir));
    }
    warnings
}

fn described(left: &NodeLeft) -> String {
    let member = |member: &konsul_api::archive::ArchivedMember| {
        format!("{}{}", member.name, if member.voter { "" } else { " (learner)" })
    };
    let mut fields = vec![
        ("Node", format!("{} (id {}) in {}", left.name, left.node_id, left.data_dir)),
        ("Cluster", format!("{}, epoch {}", left.cluster_id, left.epoch)),
        ("Last entry", format!("{} of term {}", left.last.index, left.last.term)),
        ("Committed", format!("{} at least", left.committed)),
        ("Snapshot", left.snapshot.to_string()),
        ("Members", left.members.iter().map(member).collect::<Vec<_>>().join(", ")),
    ];
    fields.extend(left.damage.iter().map(|damage| ("Damaged", damage.clone())));
    fields.extend(left.left_behind.iter().map(|why| ("Left behind", why.clone())));
    output::fields(&fields)
}

fn in_words(plan: &RecoverPlan) -> String {
    let rows = plan.nodes.iter().map(|node| {
        let state = match (&node.damage, &node.left_behind) {
            (Some(_), _) => "damaged",
            (None, Some(_)) => "left behind",
            (None, None) if node.node_id == plan.survivor.node_id => "goes on",
            (None, None) => "rejoins empty",
        };
        vec![
            node.name.clone(),
            node.last.term.to_string(),
            node.last.index.to_string(),
            node.epoch.to_string(),
            state.to_owned(),
        ]
    });
    let table = output::table(&["Node", "Term", "Index", "Epoch", ""], rows);
    let warnings: String = plan.warnings.iter().map(|warning| format!("\n! {warning}")).collect();
    format!(
        "{table}\n\nCluster {}: {} goes on alone, in epoch {}. Missing: {}.{warnings}",
        plan.cluster_id,
        plan.survivor.name,
        plan.epoch + 1,
        plan.missing.join(", ")
    )
}

fn apply(path: &Path, (yes, dry_run): (bool, bool), node: &Node, context: &Context) -> anyhow::Result<Exit> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let plan: RecoverPlan = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no answer of `konsulctl recover plan --json`", path.display()))?;
    if dry_run {
        let here = node.inspect(None)?;
        if (here.node_id, here.last) != (plan.survivor.node_id, plan.survivor.last) {
            let text = format!(
                "the plan is for {} at index {}, this host holds {} at index {}",
                plan.survivor.name, plan.survivor.last.index, here.name, here.last.index
            );
            return Err(Stopped::because(Exit::Precondition, text));
        }
        context.output.result(&plan, || format!("{}\n\nNothing was changed", in_words(&plan)))?;
        return Ok(Exit::Done);
    }
    if !yes && !confirmed(&plan, context)? {
        context.output.error("not confirmed; nothing was changed");
        return Ok(Exit::Failed);
    }
    let number = |option: &str, value: u64| [OsString::from(option), OsString::from(value.to_string())];
    let mut args: Vec<OsString> = vec!["data".into(), "recover".into()];
    args.extend(number("--node-id", plan.survivor.node_id));
    args.extend(number("--term", plan.survivor.last.term));
    args.extend(number("--index", plan.survivor.last.index));
    let args: Vec<&OsStr> = args.iter().map(OsString::as_os_str).collect();
    let done: RecoverAnswer = node.run(&args)?;
    context.output.result(&done, || {
        format!(
            "{} is the only voter of cluster {} now, in epoch {}. The data as it was: {}\n\n\
             Start it:            systemctl start konsul\nOn each other host:  move the data directory away, then start it",
            done.name, done.cluster_id, done.epoch, done.backup
        )
    })?;
    Ok(Exit::Done)
}

fn confirmed(plan: &RecoverPlan, context: &Context) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() || context.output.is_json() {
        let text = "this cannot be undone once the node has started; say --yes if that is wanted";
        return Err(UsageError(text.to_owned()).into());
    }
    context.output.note(&in_words(plan));
    context.output.ask("\nAre all other nodes of this cluster off, or out of reach of clients? [y/N] ")?;
    let mut reply = String::new();
    io::stdin().lock().read_line(&mut reply).context("read the reply")?;
    Ok(matches!(reply.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use konsul_api::{archive::ArchivedMember, recover::LogPlace};

    fn left(node_id: u64, term: u64, index: u64) -> NodeLeft {
        let member = |id: u64| ArchivedMember { id, name: format!("n{id}"), rpc: String::new(), voter: true };
        NodeLeft {
            data_dir: format!("/data/n{node_id}"),
            name: format!("n{node_id}"),
            node_id,
            cluster_id: "c".to_owned(),
            epoch: 0,
            term,
            last: LogPlace { term, index },
            committed: index,
            snapshot: 0,
            members: (1..=5).map(member).collect(),
            damage: None,
            left_behind: None,
        }
    }

    fn exit_of(nodes: Vec<NodeLeft>) -> Exit {
        plan(nodes).expect_err("refused").downcast_ref::<Stopped>().expect("an exit code of its own").exit
    }

    #[test]
    fn the_furthest_node_goes_on_by_term_and_then_by_index() {
        let found = plan(vec![left(1, 3, 900), left(2, 4, 100)]).expect("a plan");
        assert_eq!((found.survivor.name.as_str(), found.majority), ("n2", 3));
        assert_eq!(found.missing, ["n3", "n4", "n5"]);
        assert!(found.warnings[0].contains("behind index 100"), "{:?}", found.warnings);
        let found = plan(vec![left(1, 4, 99), left(2, 4, 100)]).expect("a plan");
        assert_eq!(found.nodes.iter().map(|node| node.node_id).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn nothing_is_recovered_while_a_majority_has_its_data() {
        assert_eq!(exit_of(vec![left(1, 3, 9), left(2, 3, 9), left(4, 3, 7)]), Exit::Precondition);
        let damaged = NodeLeft { damage: Some("a hole".to_owned()), ..left(4, 3, 10) };
        let found = plan(vec![left(1, 3, 9), left(2, 3, 9), damaged]).expect("a damaged node does not count");
        assert_eq!(found.survivor.node_id, 2);
        assert!(found.warnings.iter().any(|warning| warning.contains("a hole")), "{:?}", found.warnings);
    }

    #[test]
    fn nodes_of_an_older_epoch_neither_go_on_nor_count() {
        let newer = NodeLeft { epoch: 1, ..left(3, 2, 5) };
        let found = plan(vec![left(1, 9, 900), left(2, 9, 900), newer]).expect("a plan");
        assert_eq!((found.survivor.node_id, found.epoch), (3, 1));
        assert_eq!(found.missing, ["n1", "n2", "n4", "n5"]);
    }

    #[test]
    fn without_a_sound_node_there_is_no_plan_and_clusters_are_not_mixed() {
        let damaged = NodeLeft { damage: Some("a hole".to_owned()), ..left(1, 3, 9) };
        assert_eq!(exit_of(vec![damaged]), Exit::Damaged);
        let other = NodeLeft { cluster_id: "d".to_owned(), ..left(2, 3, 9) };
        assert!(plan(vec![left(1, 3, 9), other]).expect_err("refused").is::<UsageError>());
    }
}
