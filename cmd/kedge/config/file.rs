//! The configuration file, turned into the flags that its keys name.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{ArgAction, Command};
use serde_json::Value;

pub const DEFAULT: &str = "/etc/kedge/config.yaml";

/// `argv` with the configuration's options put behind the subcommand. `environment` answers for a variable.
///
/// # Errors
/// When a file named by hand is missing, a file is not a YAML map, or a key is no flag of the subcommand.
pub fn merge(
    command: &Command,
    argv: Vec<OsString>,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Vec<OsString>> {
    let words: Vec<String> = argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let Some(name) = words.get(1) else { return Ok(argv) };
    let Some(sub) = command.find_subcommand(name) else { return Ok(argv) };
    if !sub.get_arguments().any(|arg| arg.get_long() == Some("config")) {
        return Ok(argv);
    }
    let by_hand =
        given(&words, "config").or_else(|| environment("KEDGE_CONFIG").map(|path| path.to_string_lossy().into_owned()));
    let explicit = by_hand.is_some();
    let main = PathBuf::from(by_hand.unwrap_or_else(|| DEFAULT.into()));
    let mut options: Vec<(String, Vec<String>, PathBuf)> = Vec::new();
    for path in files(&main, explicit)? {
        for (key, values) in read(&path)? {
            let (key, append) = key.strip_suffix('+').map_or((key.as_str(), false), |key| (key, true));
            check_key(sub, key, &path)?;
            match options.iter_mut().find(|(known, ..)| known == key) {
                Some((_, old, _)) if append => old.extend(values),
                Some(entry) => *entry = (key.to_owned(), values, path.clone()),
                None => options.push((key.to_owned(), values, path.clone())),
            }
        }
    }
    let mut merged: Vec<OsString> = argv[..2].to_vec();
    for (key, values, path) in options {
        let argument = sub.get_arguments().find(|arg| arg.get_long() == Some(key.as_str()));
        let argument = argument.expect("check_key found it");
        let in_environment = argument.get_env().is_some_and(|name| environment(&name.to_string_lossy()).is_some());
        if in_environment || given(&words, &key).is_some() {
            continue;
        }
        if matches!(argument.get_action(), ArgAction::SetTrue) {
            match values.as_slice() {
                [value] if value == "true" => merged.push(format!("--{key}").into()),
                [value] if value == "false" => {}
                other => bail!(
                    "{}: key {key:?}: bad value {:?}: allowed are true and false",
                    path.display(),
                    other.join(",")
                ),
            }
            continue;
        }
        merged.extend(values.into_iter().map(|value| OsString::from(format!("--{key}={value}"))));
    }
    merged.extend_from_slice(&argv[2..]);
    Ok(merged)
}

/// The value of `--name value` or `--name=value`; "" for a bare switch.
fn given(words: &[String], name: &str) -> Option<String> {
    let flag = format!("--{name}");
    let at = words.iter().position(|word| *word == flag || word.starts_with(&format!("{flag}=")))?;
    match words[at].split_once('=') {
        Some((_, value)) => Some(value.to_owned()),
        None => Some(words.get(at + 1).cloned().unwrap_or_default()),
    }
}

fn files(main: &Path, explicit: bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if main.exists() {
        found.push(main.to_owned());
    } else if explicit {
        bail!("config file {} does not exist", main.display());
    }
    let mut folder = main.as_os_str().to_owned();
    folder.push(".d");
    if let Ok(entries) = std::fs::read_dir(&folder) {
        let mut extra: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        extra.retain(|path| path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml"));
        extra.sort();
        found.extend(extra);
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<(String, Vec<String>)>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read config file {}", path.display()))?;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let value: Value = serde_saphyr::from_str(&text).map_err(|error| {
        anyhow::anyhow!("config file {} is not YAML: {}", path.display(), first_line(&error.to_string()))
    })?;
    let Value::Object(map) = value else {
        bail!("config file {}: want a map of flag names to values", path.display());
    };
    map.into_iter()
        .map(|(key, value)| {
            let values = match value {
                Value::Array(items) => items.iter().map(|item| scalar(item, &key, path)).collect::<Result<_>>()?,
                Value::Null => Vec::new(),
                other => vec![scalar(&other, &key, path)?],
            };
            Ok((key, values))
        })
        .collect()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim_end_matches(':')
}

fn scalar(value: &Value, key: &str, path: &Path) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        other => bail!(
            "{}: key {key:?}: bad value {other}: allowed are text, numbers, booleans and lists of them",
            path.display()
        ),
    }
}

fn check_key(sub: &Command, key: &str, path: &Path) -> Result<()> {
    let mut allowed: Vec<&str> = sub.get_arguments().filter_map(|arg| arg.get_long()).collect();
    allowed.retain(|name| !["config", "help", "version"].contains(name));
    if allowed.contains(&key) {
        return Ok(());
    }
    allowed.sort_unstable();
    bail!("{}: unknown key {key:?}: allowed are {}", path.display(), allowed.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn merged(yaml: &str, argv: &[&str], env: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, yaml).expect("writes");
        let mut words = vec!["kedge".to_owned(), "server".into(), format!("--config={}", path.display())];
        words.extend(argv.iter().map(|word| (*word).to_owned()));
        let environment = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        let command = crate::cli::Cli::command();
        let merged = merge(&command, words.into_iter().map(OsString::from).collect(), &environment);
        let strip = |text: String| text.replace(&path.display().to_string(), "FILE");
        merged
            .map(|words| words.into_iter().map(|word| strip(word.to_string_lossy().into_owned())).collect())
            .map_err(|error| strip(format!("{error:#}")))
    }

    #[test]
    fn keys_become_flags_unless_given_otherwise() {
        let yaml = "https-listen-port: 7443\nnode-label: [a=b, c=d]\ndisable-agent: true\nnode-name: x\n";
        let words = merged(yaml, &["--node-name", "y"], &[("KEDGE_HTTPS_LISTEN_PORT", "1")]).expect("merges");
        let want = [
            "kedge",
            "server",
            "--node-label=a=b",
            "--node-label=c=d",
            "--disable-agent",
            "--config=FILE",
            "--node-name",
            "y",
        ];
        let mut sorted = words[2..5].to_vec();
        sorted.sort();
        assert_eq!(sorted, ["--disable-agent", "--node-label=a=b", "--node-label=c=d"]);
        assert_eq!(words.len(), want.len());
    }

    #[test]
    fn bad_keys_and_values_are_named() {
        let error = merged("colour: red\n", &[], &[]).expect_err("refused");
        assert!(error.starts_with("FILE: unknown key \"colour\": allowed are "), "{error}");
        assert!(error.contains(" bind-address, cluster-cidr, "), "{error}");
        let error = merged("disable-agent: maybe\n", &[], &[]).expect_err("refused");
        assert_eq!(error, "FILE: key \"disable-agent\": bad value \"maybe\": allowed are true and false");
        let error = merged("- a\n", &[], &[]).expect_err("refused");
        assert_eq!(error, "config file FILE: want a map of flag names to values");
    }
}
