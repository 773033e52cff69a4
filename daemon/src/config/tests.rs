//! Golden tests: `testdata/<case>.toml` with its environment and flags in comments, `<case>.golden` what comes of it.
//! UPDATE=1 rewrites the golden files; the diff is the review.

use super::*;
use clap::Parser;
use std::fmt::Write;

/// `#env NAME=VALUE` and `#flag --name value` at the start of a line.
fn run_case(text: &str) -> Result<Config, ConfigError> {
    resolve_case(text).map(|(config, _)| config)
}

fn resolve_case(text: &str) -> Result<(Config, Settings), ConfigError> {
    let words =
        |prefix: &str| text.lines().filter_map(move |line| line.strip_prefix(prefix)).map(str::to_owned).collect();
    let variables: Vec<String> = words("#env ");
    let flags: Vec<String> = words("#flag ");
    let flags = flags.iter().flat_map(|line| line.splitn(2, ' '));
    let split = |pair: &String| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap();
    let credential = |(key, path): (String, String)| {
        let key = keys::find(&key).unwrap().path;
        (key, PathBuf::from(path))
    };
    let layers = layers(Sources {
        file: Some((Path::new("/etc/konsul/konsul.toml"), text)),
        variables: variables.iter().map(split).collect(),
        credentials: words("#credential ").iter().map(split).map(credential).collect(),
        args: &Args::try_parse_from(std::iter::once("konsuld").chain(flags)).unwrap(),
        host_name: "host-7".into(),
    });
    let config = layers.build().map_err(|problems| ConfigError::Invalid { problems })?;
    Ok((config, layers.settings))
}

fn load(text: &str) -> Config {
    run_case(text).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_case_in_testdata_gives_what_its_golden_file_says() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/testdata");
    let update = std::env::var_os("UPDATE").is_some();
    let (mut cases, mut wrong) = (0, String::new());
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        cases += 1;
        let found = match run_case(&std::fs::read_to_string(&path).unwrap()) {
            Ok(config) => format!("{config:#?}\n"),
            Err(error) => format!("{error}\n"),
        };
        let golden = path.with_extension("golden");
        if update {
            std::fs::write(&golden, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if found != expected {
            writeln!(wrong, "{}:\n-- expected --\n{expected}-- found --\n{found}", golden.display()).unwrap();
        }
    }
    assert!(cases >= 10, "{cases} cases in {}", dir.display());
    assert!(wrong.is_empty(), "{wrong}(UPDATE=1 rewrites the golden files)");
}

#[test]
fn the_default_file_sets_every_key_and_means_the_defaults() {
    let text = keys::default_file();
    assert_eq!(load(&text), load(""));
    for key in keys::KEYS {
        let name = key.name();
        let line = |prefix: &str| text.lines().any(|line| line.starts_with(&format!("{prefix}{name} = ")));
        assert!(line("") || line("# "), "{} is not in the default file", key.path);
        assert!(!key.doc.is_empty() && key.doc.iter().all(|line| line.len() <= 118), "manual text of {}", key.path);
    }
}

#[test]
fn the_examples_of_keys_without_a_default_are_taken() {
    // What this build refuses has tests of its own below.
    let refused = |key: &keys::Key| {
        !cfg!(feature = "otlp") && key.path.starts_with("telemetry.otlp_")
            || !cfg!(feature = "discovery-aws") && key.path.starts_with("discovery.aws_")
    };
    let section = |name: &str| {
        let keys = keys::KEYS.iter().filter(|key| key.section() == name && !refused(key));
        let line = |key: &keys::Key| match key.default {
            keys::Preset::Is(value) => format!("{} = {value}\n", key.name()),
            keys::Preset::None { example } => format!("{} = {example}\n", key.name()),
        };
        format!("[{name}]\n{}", keys.map(line).collect::<String>())
    };
    let text: String = keys::SECTIONS.iter().map(|(name, _)| section(name)).collect();
    // Two ways to a cluster that exclude each other.
    let (token, peers) = text.lines().partition::<Vec<_>, _>(|line| line.starts_with("join_token_file = "));
    assert_eq!(token.len(), 1);
    let config = load(&peers.join("\n"));
    assert_eq!((config.node.name.as_str(), config.node.id), ("n1", Some(1)));
    assert!(config.tls.files.is_some());
}

#[test]
fn every_key_has_a_section_with_a_place_in_the_file() {
    for key in keys::KEYS {
        assert!(keys::SECTIONS.iter().any(|(section, _)| *section == key.section()), "{}", key.path);
        assert_eq!(keys::KEYS.iter().filter(|other| other.path == key.path).count(), 1, "{} is there twice", key.path);
    }
}

#[test]
fn every_key_can_be_set_by_file_variable_and_flag() {
    for key in keys::KEYS {
        let value = match key.default {
            keys::Preset::Is(value) => value,
            keys::Preset::None { example } => example,
        };
        let plain = value.trim_matches('"').replace('_', if value.starts_with('"') { "_" } else { "" });
        let given = env::read([(key.variable(), plain.clone())]);
        assert!(given.problems.is_empty(), "{}: {:?}", key.variable(), given.problems);
        let flag = format!("{}={plain}", key.path);
        let args = Args::try_parse_from(["konsuld", "--set", &flag]).unwrap();
        let (by_flag, problems) = args.given();
        assert!(problems.is_empty(), "{flag}: {problems:?}");
        for given in [&given.given[0], &by_flag[0]] {
            let from_file = key.kind.read(&raw::value(value).unwrap());
            assert_eq!(key.kind.read(&given.raw), from_file, "{} by {}", key.path, given.origin);
        }
    }
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_file() {
    let file = "[node]\nname = \"file\"\n[log]\nlevel = \"warn\"\n[http]\ndatacenter = \"file\"\n";
    let config =
        load(&format!("{file}#env KONSUL_NODE_NAME=variable\n#env KONSUL_LOG_LEVEL=debug\n#flag --node-name flag\n"));
    assert_eq!(config.node.name, "flag");
    assert_eq!(config.log.filter.to_string(), "debug");
    assert_eq!(config.http.datacenter, "file");
}

#[test]
fn a_node_alone_needs_no_tls_and_binds_no_peer_port() {
    let config = load("");
    assert_eq!((config.peer.listen, config.tls.files), (None, None));
    assert_eq!(config.node.name, "host-7");
    assert_eq!(config.storage.state_dir, Path::new("/var/lib/konsul/state"));
    assert_eq!(config.http.advertise, "http://127.0.0.1:8500");
}

#[test]
fn discovery_is_on_as_soon_as_one_of_its_methods_is_set() {
    assert!(load("").discovery.is_off());
    assert!(load("[discovery]\ndns_server = \"10.0.0.2\"\n").discovery.is_off());
    let found = load("[discovery]\ndns_domain = \"example.net\"\nseeds = [\"n1:8300\"]\nmethods = [\"static\"]\n");
    assert_eq!((found.discovery.dns, found.discovery.seeds), (None, vec!["n1:8300".to_owned()]));
}

#[test]
fn traces_need_a_konsuld_that_has_them() {
    let found = run_case("[telemetry]\notlp_endpoint = \"http://127.0.0.1:4318\"\notlp_sample_ratio = 0.5\n");
    if cfg!(feature = "otlp") {
        let traces = found.unwrap().traces.unwrap();
        assert_eq!((traces.endpoint.as_str(), traces.sample_ratio), ("http://127.0.0.1:4318", 0.5));
    } else {
        assert!(found.unwrap_err().to_string().contains("`otlp`"));
    }
    let off = run_case("[telemetry]\notlp_sample_ratio = 1\n").unwrap();
    assert_eq!(off.traces, None, "without an endpoint nothing is traced");
    for bad in ["1.5", "-0.1", "\"half\"", "nan"] {
        let error = run_case(&format!("[telemetry]\notlp_sample_ratio = {bad}\n")).unwrap_err().to_string();
        assert!(error.contains("a number from 0 to 1"), "{bad}: {error}");
    }
    let error = run_case("[telemetry]\notlp_ca_file = \"/ca.pem\"\n").unwrap_err().to_string();
    assert!(error.contains("https://"), "{error}");
}

#[test]
fn aws_discovery_needs_a_konsuld_that_has_it() {
    let found = run_case("[discovery]\naws_tag_key = \"konsul\"\n");
    if cfg!(feature = "discovery-aws") {
        let aws = found.unwrap().discovery.aws.unwrap();
        assert_eq!((aws.tag_key.as_str(), aws.port, aws.region), ("konsul", 8300, None));
    } else {
        assert!(found.unwrap_err().to_string().contains("discovery-aws"));
    }
}

#[test]
fn a_wildcard_is_advertised_by_name() {
    assert_eq!(load("[http]\nlisten = [\"0.0.0.0:8501\"]\n").http.advertise, "http://host-7:8501");
}

#[test]
fn a_file_that_was_named_must_exist() {
    let args = Args::try_parse_from(["konsuld", "--config", "/nowhere/konsul.toml"]).unwrap();
    assert!(matches!(args.start(), Err(ConfigError::Read { .. })));
}

#[test]
fn the_command_line_is_sound() {
    use clap::CommandFactory;
    Args::command().debug_assert();
}

#[test]
fn the_configuration_that_is_shown_says_what_the_one_it_was_made_from_said() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/testdata");
    let mut valid = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let Ok((config, settings)) = resolve_case(&std::fs::read_to_string(&path).unwrap()) else { continue };
        valid += 1;
        let shown = shown::shown(&settings);
        let again = load(&shown);
        assert_eq!(format!("{:#?}", again), format!("{config:#?}"), "{}\n{shown}", path.display());
    }
    assert!(valid >= 5, "{valid} valid cases in {}", dir.display());
}

#[test]
fn what_is_shown_tells_where_it_comes_from() {
    let (_, settings) = resolve_case("[node]\nname = \"n1\"\n").unwrap();
    let shown = shown::shown(&settings);
    assert!(shown.contains("[node]\nname = \"n1\" # /etc/konsul/konsul.toml:2\n"), "{shown}");
    assert!(shown.contains("data_dir = \"/var/lib/konsul\" # default\n"), "{shown}");
}
