//! What the server is told about admission: which plugins run, and their configuration
//! (`apiserver.config.k8s.io/v1 AdmissionConfiguration`).

use api::quota::Requirement;
use apimachinery::decode::{self, Encoding};
use serde_json::Value;

use super::podsecurity::policy::{Level, LevelVersion, Version};
use super::quota::LimitedResource;
use super::{PodSecurityConfig, list, text};

#[derive(Debug, Clone, Default)]
pub struct AdmissionConfig {
    /// Plugins to run besides those that run by default.
    pub enable: Vec<String>,
    /// Plugins not to run.
    pub disable: Vec<String>,
    pub pod_security: PodSecurityConfig,
    /// Consumption that is refused unless a quota covers it.
    pub limited_resources: Vec<LimitedResource>,
}

impl AdmissionConfig {
    /// Takes in a configuration file; `read` gives the content of the files it refers to.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(&mut self, file: &str, read: &dyn Fn(&str) -> Result<String, String>) -> Result<(), String> {
        let document = parse(file)?;
        expect_kind(&document, "apiserver.config.k8s.io/", "AdmissionConfiguration")?;
        for plugin in list(&document, "plugins") {
            let own = match (&plugin["configuration"], text(plugin, "path")) {
                (Value::Null, "") => continue,
                (Value::Null, path) => parse(&read(path)?)?,
                (inline, _) => inline.clone(),
            };
            match text(plugin, "name") {
                "PodSecurity" => self.pod_security = pod_security(&own)?,
                "ResourceQuota" => self.limited_resources = limited(&own)?,
                "" => return Err("plugins: name is required".to_owned()),
                _ => {}
            }
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<Value, String> {
    let document = decode::parse(text.as_bytes(), Encoding::Yaml).map_err(|error| error.to_string())?;
    Ok(document.node.into_value())
}

fn expect_kind(value: &Value, group: &str, kind: &str) -> Result<(), String> {
    let (version, found) = (text(value, "apiVersion"), text(value, "kind"));
    if version.starts_with(group) && found == kind {
        return Ok(());
    }
    Err(format!("expected a {kind} of {group}v1, found kind \"{found}\" of \"{version}\""))
}

fn pod_security(value: &Value) -> Result<PodSecurityConfig, String> {
    expect_kind(value, "pod-security.admission.config.k8s.io/", "PodSecurityConfiguration")?;
    let mut config = PodSecurityConfig::default();
    let defaults = &value["defaults"];
    for (mode, into) in [
        ("enforce", &mut config.defaults.enforce),
        ("audit", &mut config.defaults.audit),
        ("warn", &mut config.defaults.warn),
    ] {
        let wrong =
            |field: String, found: &str, why: &str| format!("defaults.{field}: Invalid value: \"{found}\": {why}");
        let version = format!("{mode}-version");
        let level = match text(defaults, mode) {
            "" => Level::default(),
            found => Level::parse(found).map_err(|why| wrong(mode.to_owned(), found, why))?,
        };
        *into = LevelVersion {
            level,
            version: match text(defaults, &version) {
                "" => Version::Latest,
                found => Version::parse(found).map_err(|why| wrong(version.clone(), found, why))?,
            },
        };
    }
    let exemptions = &value["exemptions"];
    let names = |key: &str| -> Result<Vec<String>, String> {
        let mut names: Vec<String> = Vec::new();
        for (index, value) in list(exemptions, key).iter().enumerate() {
            let name = value.as_str().unwrap_or_default();
            let at = format!("exemptions.{key}[{index}]");
            if name.is_empty() {
                return Err(format!("{at}: Invalid value: \"\": must not be empty"));
            }
            if names.iter().any(|known| known == name) {
                return Err(format!("{at}: Duplicate value: \"{name}\""));
            }
            names.push(name.to_owned());
        }
        Ok(names)
    };
    config.exempt_usernames = names("usernames")?;
    config.exempt_namespaces = names("namespaces")?;
    config.exempt_runtime_classes = names("runtimeClasses")?;
    Ok(config)
}

fn limited(value: &Value) -> Result<Vec<LimitedResource>, String> {
    expect_kind(value, "apiserver.config.k8s.io/", "ResourceQuotaConfiguration")?;
    let mut found = Vec::new();
    for (index, entry) in list(value, "limitedResources").iter().enumerate() {
        if text(entry, "resource").is_empty() {
            return Err(format!("limitedResources[{index}].resource: Required value"));
        }
        let contains = list(entry, "matchContains").iter().filter_map(|part| part.as_str().map(str::to_owned));
        found.push(LimitedResource {
            group: text(entry, "apiGroup").to_owned(),
            resource: text(entry, "resource").to_owned(),
            match_contains: contains.collect(),
            match_scopes: Requirement::list(list(entry, "matchScopes")),
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_configures_plugins() {
        let file = r#"
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, enforce-version: v1.30, warn: restricted}
    exemptions: {namespaces: [kube-system]}
- name: ResourceQuota
  path: quota.yaml
- name: Other
"#;
        let quota = "apiVersion: apiserver.config.k8s.io/v1\nkind: ResourceQuotaConfiguration\nlimitedResources:\n- resource: pods\n  matchScopes: [{scopeName: PriorityClass, operator: In, values: [a]}]\n";
        let mut config = AdmissionConfig::default();
        let read = |path: &str| if path == "quota.yaml" { Ok(quota.to_owned()) } else { Err("no".to_owned()) };
        config.load(file, &read).expect("loads");
        assert_eq!(config.pod_security.defaults.compact(), "enforce=baseline:v1.30, warn=restricted:latest");
        assert_eq!(config.pod_security.exempt_namespaces, ["kube-system"]);
        assert_eq!(config.limited_resources[0].match_scopes[0].values, ["a"]);
        let wrong = file.replace("enforce: baseline", "enforce: odd");
        assert_eq!(
            AdmissionConfig::default().load(&wrong, &read).expect_err("is wrong"),
            "defaults.enforce: Invalid value: \"odd\": must be one of privileged, baseline, restricted"
        );
        assert!(AdmissionConfig::default().load("kind: X", &read).is_err());
    }
}
