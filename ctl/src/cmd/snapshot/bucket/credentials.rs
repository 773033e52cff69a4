//! The file of keys that every program for S3 reads, where the environment has none.

use anyhow::Context as _;
use object_store::aws::AmazonS3Builder;
use std::{collections::BTreeMap, env, fs, io, path::PathBuf};

/// The builder, with the keys of the file unless it has some.
pub(super) fn added(builder: AmazonS3Builder) -> anyhow::Result<AmazonS3Builder> {
    if env::var_os("AWS_ACCESS_KEY_ID").is_some() {
        return Ok(builder);
    }
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".aws/credentials"));
    let Some(path) = env::var_os("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from).or_else(home) else {
        return Ok(builder);
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        // Whoever has no such file has a role, or learns from the store what is missing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(builder),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let profile = env::var("AWS_PROFILE").unwrap_or_else(|_| "default".to_owned());
    let keys = section(&text, &profile);
    let wanted =
        |name: &str| keys.get(name).with_context(|| format!("{} has no {name} in [{profile}]", path.display()));
    let builder = builder
        .with_access_key_id(*wanted("aws_access_key_id")?)
        .with_secret_access_key(*wanted("aws_secret_access_key")?);
    Ok(match keys.get("aws_session_token") {
        Some(token) => builder.with_token(*token),
        None => builder,
    })
}

/// Names and values of one section.
fn section<'a>(text: &'a str, wanted: &str) -> BTreeMap<&'a str, &'a str> {
    let mut is_wanted = false;
    let mut found = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_wanted = name.trim() == wanted;
        } else if is_wanted
            && !line.starts_with(['#', ';'])
            && let Some((name, value)) = line.split_once('=')
        {
            found.insert(name.trim(), value.trim());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::section;

    #[test]
    fn a_section_has_its_own_keys_only() {
        let text = "[default]\naws_access_key_id = A1\n# aws_secret_access_key = no\naws_secret_access_key=S=1\n\n\
                    [ other ]\naws_access_key_id=A2\n";
        let keys = section(text, "default");
        assert_eq!((keys["aws_access_key_id"], keys["aws_secret_access_key"], keys.len()), ("A1", "S=1", 2));
        assert_eq!(section(text, "other")["aws_access_key_id"], "A2");
        assert!(section(text, "nobody").is_empty());
    }
}
