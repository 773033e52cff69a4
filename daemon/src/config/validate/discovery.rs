//! Which discovery methods are set completely, and which of those are used.

use super::{Check, Value};
use crate::cluster::discovery::{AwsConfig, AwsEnvironment, DiscoveryConfig, DnsConfig, Method};

/// Keys that mean something only beside another one.
const NEEDS: [(&str, &str); 4] = [
    ("discovery.dns_port", "discovery.dns_domain"),
    ("discovery.aws_region", "discovery.aws_tag_key"),
    ("discovery.aws_tag_value", "discovery.aws_tag_key"),
    ("discovery.aws_endpoint", "discovery.aws_tag_key"),
];

impl Check<'_> {
    pub(super) fn discovery(&mut self) -> DiscoveryConfig {
        for (key, needed) in NEEDS {
            if self.settings.get(key).is_some() && self.settings.get(needed).is_none() {
                self.refuse(key, format!("`{key}` is set without `{needed}`; set both, or none"));
            }
        }
        let mut found = DiscoveryConfig {
            dns: self.dns(),
            seeds: self.texts("discovery.seeds").unwrap_or_default(),
            aws: self.aws(),
            dns_server: self.settings.get("discovery.dns_server").map(|_| self.addresses("discovery.dns_server")[0]),
        };
        if let Some(used) = self.texts("discovery.methods") {
            self.methods_are_set(&used, &found);
            let uses = |method: Method| used.iter().any(|name| name == method.name());
            found.dns = found.dns.filter(|_| uses(Method::Dns));
            found.seeds.retain(|_| uses(Method::Static));
            found.aws = found.aws.filter(|_| uses(Method::Aws));
        }
        if found.aws.is_some() && !cfg!(feature = "discovery-aws") {
            let text = "this konsuld was built without AWS discovery (cargo feature `discovery-aws`); \
                        use one that has it, or remove the `discovery.aws_` keys";
            self.refuse("discovery.aws_tag_key", text);
            found.aws = None;
        }
        found
    }

    fn methods_are_set(&mut self, used: &[String], found: &DiscoveryConfig) {
        let set = [
            (Method::Dns, found.dns.is_some(), "discovery.dns_domain"),
            (Method::Static, !found.seeds.is_empty(), "discovery.seeds"),
            (Method::Aws, found.aws.is_some(), "discovery.aws_tag_key"),
        ];
        for (method, is_set, key) in set {
            let name = method.name();
            if !is_set && used.iter().any(|used| used == name) {
                let text =
                    format!("`discovery.methods` has \"{name}\", but `{key}` is not set; set it, or leave it out");
                self.refuse("discovery.methods", text);
            }
        }
    }

    fn dns(&self) -> Option<DnsConfig> {
        Some(DnsConfig {
            domain: self.text("discovery.dns_domain")?,
            service: self.choice("discovery.dns_service"),
            port: self.settings.get("discovery.dns_port").map(|_| self.port("discovery.dns_port")),
        })
    }

    fn aws(&self) -> Option<AwsConfig> {
        Some(AwsConfig {
            region: self.text("discovery.aws_region"),
            tag_key: self.text("discovery.aws_tag_key")?,
            tag_value: self.text("discovery.aws_tag_value"),
            endpoint: self.text("discovery.aws_endpoint"),
            port: self.port("discovery.aws_port"),
            // The environment is not a setting; whoever knows it fills this in.
            environment: AwsEnvironment::default(),
        })
    }

    fn port(&self, path: &str) -> u16 {
        u16::try_from(self.number(path)).expect("the table bounds ports")
    }

    fn texts(&self, path: &str) -> Option<Vec<String>> {
        match self.settings.get(path) {
            Some(Value::Texts(texts)) => Some(texts.clone()),
            None => None,
            other => unreachable!("{path} is a list of texts, not {other:?}"),
        }
    }
}
