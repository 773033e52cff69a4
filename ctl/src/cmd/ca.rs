//! `konsulctl ca`: the cluster's own authority.

use crate::{
    Context,
    client::{Ask, Payload},
    exit::Exit,
    output,
    path::Path,
};
use konsul_api::ca::{CaAuthority, CaRotation, CaStage, CaStatus};
use std::time::Duration;

/// A new authority is written through the log.
const ROTATE: Duration = Duration::from_secs(30);

/// `konsulctl ca …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Ca {
    /// Show who signs the nodes' certificates, and for whom a replacement waits
    #[command(after_help = "Examples:\n  konsulctl ca status\n  konsulctl ca status --json")]
    Status,
    /// Begin to replace the authority: it ends by itself, when every member uses a certificate of the new one
    #[command(
        after_help = "Both authorities are trusted until then. Do it after a voter was stolen, and some years before the \
    authority expires.\n\nExamples:\n  konsulctl ca rotate\n  konsulctl ca status"
    )]
    Rotate,
}

pub(crate) async fn run(ca: &Ca, context: &Context) -> anyhow::Result<Exit> {
    match ca {
        Ca::Status => status(context).await,
        Ca::Rotate => rotate(context).await,
    }
}

async fn status(context: &Context) -> anyhow::Result<Exit> {
    let status: CaStatus = context.client.json(&Ask::get(Path::new("/v1/cluster/ca"))).await?;
    context.output.result(&status, || {
        let columns = ["AUTHORITY", "STAGE", "VALID UNTIL", "SEALING KEY", "CAN SIGN HERE", "FINGERPRINT"];
        let authorities = output::table(&columns, status.authorities.iter().map(row));
        match progress(&status) {
            Some(progress) => format!("{authorities}\n\n{progress}"),
            None => authorities,
        }
    })?;
    Ok(Exit::Done)
}

fn row(authority: &CaAuthority) -> Vec<String> {
    vec![
        authority.number.to_string(),
        stage(authority.stage).to_owned(),
        authority.not_after.clone(),
        authority.sealing_key.clone(),
        if authority.can_sign { "yes" } else { "no" }.to_owned(),
        authority.fingerprint.clone(),
    ]
}

fn stage(stage: CaStage) -> &'static str {
    match stage {
        CaStage::Active => "active",
        CaStage::Next => "next",
        CaStage::Retiring => "retiring",
    }
}

fn progress(status: &CaStatus) -> Option<String> {
    if !status.rotating {
        return None;
    }
    Some(match &status.waiting {
        None => "The authority is being replaced; the leader, who knows how far that is, was not reached.".to_owned(),
        Some(waiting) if waiting.is_empty() => "The authority is being replaced.".to_owned(),
        Some(waiting) => {
            let each: Vec<String> =
                waiting.iter().map(|w| format!("  {} (node {}): {}", w.name, w.id, w.why)).collect();
            format!("The authority is being replaced; that waits for\n{}", each.join("\n"))
        }
    })
}

async fn rotate(context: &Context) -> anyhow::Result<Exit> {
    let ask = Ask::post(Path::new("/v1/cluster/ca/rotate"), Payload::Nothing).patient(ROTATE);
    let begun: CaRotation = context.client.json(&ask).await?;
    context
        .output
        .result(&begun, || format!("authority {} is on its way in; see `konsulctl ca status`", begun.number))?;
    Ok(Exit::Done)
}
