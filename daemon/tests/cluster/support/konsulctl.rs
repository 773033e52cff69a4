//! konsulctl, as operators type it.

use super::ctl::konsulctl as program;
use super::node::Node;
use std::process::{Command, Output, Stdio};

/// Asks this node, with the words behind `konsulctl`.
pub(crate) fn run(node: &Node, line: &str) -> Output {
    let mut command = Command::new(program());
    command.env("KONSUL_HTTP_ADDR", format!("http://{}", node.http)).args(line.split(' ')).stdin(Stdio::null());
    command.output().unwrap()
}

/// What it prints; it must succeed.
#[track_caller]
pub(crate) fn done(node: &Node, line: &str) -> String {
    let output = run(node, line);
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert_eq!(output.status.code(), Some(0), "konsulctl {line} at {}\nstdout: {out}\nstderr: {err}", node.name);
    out.trim_end().to_owned()
}

/// Why it fails; it must.
#[track_caller]
pub(crate) fn failed(node: &Node, line: &str) -> String {
    let output = run(node, line);
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert_eq!(output.status.code(), Some(1), "konsulctl {line} at {}\nstdout: {out}\nstderr: {err}", node.name);
    err
}

/// Gets these nodes, which wait, into one cluster: the first forms it, the others join with its token.
pub(crate) fn enter(nodes: &[Node]) {
    done(&nodes[0], "cluster init");
    if nodes.len() > 1 {
        let token = done(&nodes[0], &format!("cluster generate-token --uses {}", nodes.len() - 1));
        nodes[1..].iter().for_each(|node| drop(done(node, &format!("cluster join {token}"))));
    }
}
