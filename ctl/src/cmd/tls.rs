//! `konsulctl tls`: certificates for nodes that are not given theirs by anyone else.
//!
//! A node is known by the URI `konsul://node/NAME` in its certificate.  Keys are never printed and never overwritten.

use crate::{Context, exit::Exit};
use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};
use std::{
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Clocks of nodes differ: a certificate is valid from a little before it was made.
const BEFORE: Duration = Duration::from_secs(3600);
const DAY: u64 = 24 * 3600;
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;

/// `konsulctl tls …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Tls {
    /// Make a certificate authority: ca.pem and ca-key.pem
    Ca(Ca),
    /// Make a node's certificate: NAME.pem and NAME-key.pem
    Node(Node),
}

/// `konsulctl tls ca`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Keep ca-key.pem off the nodes: whoever has it can make nodes.\n\n\
    Examples:\n  konsulctl tls ca --dir pki --name 'Konsul production'")]
pub(crate) struct Ca {
    /// Where to write; made if missing
    #[arg(long, default_value = ".", value_name = "D")]
    dir: PathBuf,
    /// Name of the authority
    #[arg(long, default_value = "Konsul CA", value_name = "N")]
    name: String,
    /// How long it is valid
    #[arg(long, default_value_t = 3650, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: u32,
}

/// `konsulctl tls node`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  konsulctl tls node --name n1 --dir pki --san n1.example.org --san 10.0.0.1")]
pub(crate) struct Node {
    /// Name of the node, as in its configuration
    #[arg(long, value_parser = node_name)]
    name: String,
    /// Where to write; made if missing
    #[arg(long, default_value = ".", value_name = "D")]
    dir: PathBuf,
    /// Certificate of the authority [default: ca.pem in the directory]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Key of the authority [default: ca-key.pem beside its certificate]
    #[arg(long, value_name = "FILE")]
    ca_key: Option<PathBuf>,
    /// A further DNS name or address of the node; repeated for several
    #[arg(long, value_name = "DNS|IP")]
    san: Vec<String>,
    /// How long it is valid
    #[arg(long, default_value_t = 365, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: u32,
}

/// A name that can stand in a file name, a DNS name and a URI.
fn node_name(text: &str) -> Result<String, String> {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && text.len() <= 63 && text.chars().all(ok) {
        return Ok(text.to_owned());
    }
    Err("a node's name has 1 to 63 letters, digits, '-', '_' and '.', and starts with a letter or digit".to_owned())
}

pub(crate) fn run(tls: &Tls, context: &Context) -> anyhow::Result<Exit> {
    match tls {
        Tls::Ca(ca) => run_ca(ca, context),
        Tls::Node(node) => run_node(node, context),
    }
}

fn run_ca(ca: &Ca, context: &Context) -> anyhow::Result<Exit> {
    let mut params = params(&ca.name, ca.days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("make the authority's key")?;
    let certificate = params.self_signed(&key).context("sign the authority's certificate")?;
    let files = Files::in_dir(&ca.dir, "ca")?;
    files.write(&certificate.pem(), &key)?;
    context
        .output
        .result(&files.told(None), || format!("made {} and {}", files.certificate.display(), files.key.display()))?;
    Ok(Exit::Done)
}

fn run_node(node: &Node, context: &Context) -> anyhow::Result<Exit> {
    let ca_path = node.ca.clone().unwrap_or_else(|| node.dir.join("ca.pem"));
    let key_path = node.ca_key.clone().unwrap_or_else(|| ca_path.with_file_name("ca-key.pem"));
    let issuer = issuer(&ca_path, &key_path)?;
    let mut params = params(&node.name, node.days)?;
    params.subject_alt_names = names(node)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("make the node's key")?;
    let certificate = params.signed_by(&key, &issuer).context("sign the node's certificate")?;
    let files = Files::in_dir(&node.dir, &node.name)?;
    files.write(&certificate.pem(), &key)?;
    context.output.result(&files.told(Some(&ca_path)), || {
        format!(
            "made {cert} and {key}; for the configuration of {name}:\n\n[tls]\nca_file = {ca:?}\ncert_file = {cert:?}\nkey_file = {key:?}",
            cert = absolute(&files.certificate).display(),
            key = absolute(&files.key).display(),
            ca = absolute(&ca_path).display(),
            name = node.name
        )
    })?;
    Ok(Exit::Done)
}

fn issuer(ca: &Path, key: &Path) -> anyhow::Result<Issuer<'static, KeyPair>> {
    let hint = "make an authority with `konsulctl tls ca`, or name it with --ca and --ca-key";
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("read {}; {hint}", path.display()));
    let (ca_pem, key_pem) = (read(ca)?, read(key)?);
    let key_pair = KeyPair::from_pem(&key_pem).with_context(|| format!("{} is no key", key.display()))?;
    Issuer::from_ca_cert_pem(&ca_pem, key_pair).with_context(|| format!("{} is no certificate", ca.display()))
}

fn params(name: &str, days: u32) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
    // Whole seconds: a certificate knows no smaller unit.
    let now = Duration::from_secs(now.as_secs());
    params.not_before = date_time_ymd(1970, 1, 1) + now.saturating_sub(BEFORE);
    params.not_after = date_time_ymd(1970, 1, 1) + now + Duration::from_secs(u64::from(days) * DAY);
    Ok(params)
}

fn names(node: &Node) -> anyhow::Result<Vec<SanType>> {
    let uri = format!("konsul://node/{}", node.name);
    let mut names = vec![
        dns(&node.name)?,
        SanType::URI(uri.as_str().try_into().context("form the node's URI")?),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        dns("localhost")?,
    ];
    for san in &node.san {
        let name = match san.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => dns(san)?,
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn dns(name: &str) -> anyhow::Result<SanType> {
    Ok(SanType::DnsName(name.try_into().with_context(|| format!("'{name}' is no DNS name"))?))
}

/// A certificate and its key.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// What `--json` tells.
#[derive(serde::Serialize)]
struct Told {
    cert_file: PathBuf,
    key_file: PathBuf,
    ca_file: Option<PathBuf>,
}

impl Files {
    fn in_dir(dir: &Path, name: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self { certificate: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}-key.pem")) })
    }

    /// The key first: a key without a certificate is harmless, and found when asked again.
    fn write(&self, certificate: &str, key: &KeyPair) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.certificate.exists(),
            "{} exists; move it away if a new one is wanted",
            self.certificate.display()
        );
        write_new(&self.key, key.serialize_pem().as_bytes(), KEY_MODE)?;
        write_new(&self.certificate, certificate.as_bytes(), CERTIFICATE_MODE)
    }

    fn told(&self, ca: Option<&Path>) -> Told {
        Told { cert_file: absolute(&self.certificate), key_file: absolute(&self.key), ca_file: ca.map(absolute) }
    }
}

/// As a configuration needs it, which is read in another directory.
fn absolute(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let shown = path.display();
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(mode).open(path);
    let mut file = opened.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => anyhow::anyhow!("{shown} exists; move it away if a new one is wanted"),
        _ => anyhow::Error::new(e).context(format!("create {shown}")),
    })?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(|| format!("write {shown}"))
}
