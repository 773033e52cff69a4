//! The configuration in force, read again: what of it may change while the node runs, and what waits for a restart.

use super::{Args, Config, ConfigError, Layers, Problem, Settings, read, shown};

/// The configuration in force, and what gave it.
#[derive(Debug, Clone)]
pub struct Loaded {
    config: Config,
    args: Args,
    settings: Settings,
}

/// What came of reading the configuration again. Nothing of it is in force yet.
#[derive(Debug)]
pub struct Again {
    /// As before, except for what may change while the node runs.
    pub loaded: Loaded,
    /// Keys that change now.
    pub changed: Vec<&'static str>,
    /// Keys that changed in the configuration and stay as they are until a restart.
    pub pending: Vec<&'static str>,
}

impl Loaded {
    /// From the file, the environment of the process and the flags.
    pub fn load(args: &Args) -> Result<Loaded, ConfigError> {
        Loaded::of(args, read(args)?)
    }

    fn of(args: &Args, layers: Layers) -> Result<Loaded, ConfigError> {
        let config = layers.build().map_err(|problems| ConfigError::Invalid { problems })?;
        Ok(Loaded { config, args: args.clone(), settings: layers.settings })
    }

    /// In the form of the file, each value with where it comes from.
    pub fn shown(&self) -> String {
        shown::shown(&self.settings)
    }

    /// What is in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reads everything again. What is read has to be valid as it is, and so has what comes of it now, while some keys
    /// wait for a restart.
    pub fn again(&self) -> Result<Again, ConfigError> {
        self.with(read(&self.args)?)
    }

    fn with(&self, mut layers: Layers) -> Result<Again, ConfigError> {
        layers.build().map_err(|problems| ConfigError::Invalid { problems })?;
        let (mut changed, mut pending) = (Vec::new(), Vec::new());
        for key in self.settings.differing(&layers.settings) {
            // Whether there are certificate files at all decides how the node speaks: that does not change in between.
            let there = self.settings.get(key.path).is_some() && layers.settings.get(key.path).is_some();
            if key.live && there {
                changed.push(key.path);
            } else {
                pending.push(key.path);
                layers.settings.adopt(key, &self.settings);
            }
        }
        let config = layers.build().map_err(|problems| ConfigError::Invalid {
            problems: problems.into_iter().map(|problem| Problem::on_reload(problem, &pending)).collect(),
        })?;
        let loaded = Loaded { config, args: self.args.clone(), settings: layers.settings };
        Ok(Again { loaded, changed, pending })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, layers};
    use clap::Parser;
    use std::path::Path;

    fn read(text: &str) -> (Args, Layers) {
        let args = Args::try_parse_from(["konsuld"]).unwrap();
        let file = Some((Path::new("/etc/konsul/konsul.toml"), text));
        let (variables, credentials) = (Vec::new(), Vec::new());
        let found = layers(Sources { file, variables, credentials, args: &args, host_name: "host-7".into() });
        (args, found)
    }

    fn load(text: &str) -> Loaded {
        let (args, layers) = read(text);
        Loaded::of(&args, layers).unwrap()
    }

    #[test]
    fn what_may_change_does_and_the_rest_waits_by_name() {
        let before = load("[log]\nlevel = \"info\"\n[http]\nvalue_bytes_max = \"1KiB\"\n");
        let text = "[log]\nlevel = \"debug\"\n[http]\nvalue_bytes_max = \"2KiB\"\ndatacenter = \"dc2\"\n[raft]\ntiming = \"wan\"\n";
        let again = before.with(read(text).1).unwrap();
        assert_eq!(again.changed, ["http.value_bytes_max", "log.level"]);
        assert_eq!(again.pending, ["raft.timing", "http.datacenter"]);
        let config = again.loaded.config();
        assert_eq!((config.log.filter.to_string().as_str(), config.http.limits.value_bytes_max), ("debug", 2048));
        assert_eq!(config.http.datacenter, "dc1");
        assert_eq!(config.raft, before.config().raft);
        // It still waits at the next reload, and no longer when it is taken back.
        let third = again.loaded.with(read(text).1).unwrap();
        assert_eq!((third.changed, third.pending.len()), (vec![], 2));
        let back = again.loaded.with(read("[log]\nlevel = \"debug\"\n").1).unwrap();
        assert_eq!((back.changed, back.pending.len()), (vec!["http.value_bytes_max"], 0));
    }

    #[test]
    fn what_does_not_fit_together_until_a_restart_is_refused_with_the_key_that_waits() {
        let before = load("");
        let text =
            "[raft]\ninflight_bytes_max = \"1GiB\"\n[http]\nvalue_bytes_max = \"64MiB\"\ntxn_bytes_max = \"64MiB\"\n";
        assert_eq!(before.with(read(text).1).unwrap().changed.len(), 2, "64 MiB fit what is in force");
        let small = load("[raft]\ninflight_bytes_max = \"1MiB\"\n");
        let error = small.with(read(text).1).unwrap_err().to_string();
        assert!(error.contains("`http.value_bytes_max` is 64MiB"), "{error}");
        assert!(error.contains("as long as raft.inflight_bytes_max is as before, until a restart"), "{error}");
    }

    #[test]
    fn certificate_files_are_exchanged_but_not_introduced() {
        let files =
            |n: u8| format!("[tls]\ncert_file = \"/t/{n}.pem\"\nkey_file = \"/t/{n}.key\"\nca_file = \"/t/ca.pem\"\n");
        let exchanged = load(&files(1)).with(read(&files(2)).1).unwrap();
        assert_eq!(exchanged.changed, ["tls.cert_file", "tls.key_file"]);
        let introduced = load("").with(read(&files(1)).1).unwrap();
        assert_eq!(introduced.pending, ["tls.cert_file", "tls.key_file", "tls.ca_file"]);
        assert_eq!(introduced.loaded.config().tls.files, None);
    }
}
