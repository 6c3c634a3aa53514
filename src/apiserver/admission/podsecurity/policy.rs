//! Pod Security policies: a level and a version each for enforcing, auditing and warning, as namespaces are labelled.
//!
//! Invariants:
//! - PS-1: a namespace always has a policy: what cannot be read enforces the strictest and says nothing.

use std::fmt;

use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

const PREFIX: &str = "pod-security.kubernetes.io/";

/// From lax to strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    /// # Errors
    /// What may be written.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "privileged" => Ok(Self::Privileged),
            "baseline" => Ok(Self::Baseline),
            "restricted" => Ok(Self::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// The minor version of Kubernetes whose rules count; latest: the newest there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    #[default]
    Latest,
    Minor(u32),
}

impl Version {
    /// # Errors
    /// What may be written.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let minor = text.strip_prefix("v1.").filter(|digits| {
            digits.bytes().all(|b| b.is_ascii_digit()) && (*digits == "0" || !digits.starts_with('0'))
        });
        minor.and_then(|digits| digits.parse().ok()).map(Self::Minor).ok_or("must be \"latest\" or \"v1.x\"")
    }

    /// Rules that came with the minor version `since` count.
    pub fn has(self, since: u32) -> bool {
        match self {
            Self::Latest => true,
            Self::Minor(minor) => minor >= since,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LevelVersion {
    pub level: Level,
    pub version: Version,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Version::Latest => write!(f, "{}:latest", self.level.as_str()),
            Version::Minor(minor) => write!(f, "{}:v1.{minor}", self.level.as_str()),
        }
    }
}

/// What counts in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

impl Policy {
    /// The policy of these labels, and what is wrong with them. Unlabelled modes take the default's.
    pub fn of_labels(labels: &Value, defaults: &Self) -> (Self, ErrorList) {
        let mut policy = *defaults;
        let mut errors = ErrorList::new();
        let Some(labels) = labels.as_object() else { return (policy, errors) };
        for (mode, into, otherwise) in [
            ("enforce", &mut policy.enforce, Level::Restricted),
            ("audit", &mut policy.audit, Level::Privileged),
            ("warn", &mut policy.warn, Level::Privileged),
        ] {
            let (level, version) = (format!("{PREFIX}{mode}"), format!("{PREFIX}{mode}-version"));
            if let Some(text) = labels.get(&level).and_then(Value::as_str) {
                into.level = Level::parse(text).unwrap_or_else(|why| {
                    errors.invalid(Path::new("metadata").child("labels").key(&level), text, why);
                    otherwise
                });
            }
            if let Some(text) = labels.get(&version).and_then(Value::as_str) {
                into.version = Version::parse(text).unwrap_or_else(|why| {
                    errors.invalid(Path::new("metadata").child("labels").key(&version), text, why);
                    Version::Latest
                });
            }
        }
        (policy, errors)
    }

    pub fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|mode| mode.level == Level::Privileged)
    }

    /// Both ask the same: versions of a privileged mode mean nothing.
    pub fn equivalent(&self, other: &Self) -> bool {
        let same = |a: LevelVersion, b: LevelVersion| {
            a.level == b.level && (a.level == Level::Privileged || a.version == b.version)
        };
        same(self.enforce, other.enforce) && same(self.audit, other.audit) && same(self.warn, other.warn)
    }

    /// `enforce=baseline:latest, warn=restricted:v1.30`: the modes that ask for something.
    pub fn compact(&self) -> String {
        [("enforce", self.enforce), ("audit", self.audit), ("warn", self.warn)]
            .iter()
            .filter(|(_, mode)| mode.level != Level::Privileged)
            .map(|(name, mode)| format!("{name}={mode}"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_make_a_policy() {
        let label = |mode: &str| format!("{PREFIX}{mode}");
        let labels =
            json!({label("enforce"): "baseline", label("enforce-version"): "v1.25", label("warn"): "restricted"});
        let (policy, errors) = Policy::of_labels(&labels, &Policy::default());
        assert!(errors.is_empty());
        assert_eq!(policy.enforce.to_string(), "baseline:v1.25");
        assert_eq!(policy.compact(), "enforce=baseline:v1.25, warn=restricted:latest");
        let labels = json!({label("enforce"): "odd", label("audit"): "odd", label("warn-version"): "v1.01"});
        let (policy, errors) = Policy::of_labels(&labels, &Policy::default());
        assert_eq!((policy.enforce.level, policy.audit.level), (Level::Restricted, Level::Privileged));
        assert_eq!(
            errors.aggregate(),
            "[metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"odd\": must be one of privileged, baseline, restricted, metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: \"odd\": must be one of privileged, baseline, restricted, metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v1.01\": must be \"latest\" or \"v1.x\"]"
        );
    }
}
