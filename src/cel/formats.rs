//! The formats of `format.named("dns1123Label")`, `format.dns1123Label()`, … and what they complain of.

use std::sync::LazyLock;

use apimachinery::validation::names;
use regex::Regex;

use crate::url::Url;

/// A named format.
#[derive(Debug)]
pub struct Format {
    /// How expressions name it.
    pub key: &'static str,
    /// What two formats are compared by.
    pub name: &'static str,
    pub validate: fn(&str) -> Vec<String>,
    /// The length that costs assume of its expression.
    pub regex_size: u64,
}

/// Longest name of a format, for estimates.
pub const MAX_FORMAT_SIZE: u64 = 64;
/// Longest expression of a format, for estimates.
pub const MAX_REGEX_SIZE: u64 = 128;

pub fn named(key: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.key == key)
}

static UUID: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$").expect("a fixed expression")
});

pub const FORMATS: &[Format] = &[
    Format { key: "dns1123Label", name: "DNS1123Label", validate: |s| names::dns1123_label(s, false), regex_size: 30 },
    Format {
        key: "dns1123Subdomain",
        name: "DNS1123Subdomain",
        validate: |s| names::dns1123_subdomain(s, false),
        regex_size: 60,
    },
    Format { key: "dns1035Label", name: "DNS1035Label", validate: |s| names::dns1035_label(s, false), regex_size: 30 },
    Format { key: "qualifiedName", name: "QualifiedName", validate: names::is_qualified_name, regex_size: 60 },
    Format {
        key: "dns1123LabelPrefix",
        name: "DNS1123LabelPrefix",
        validate: |s| names::dns1123_label(s, true),
        regex_size: 30,
    },
    Format {
        key: "dns1123SubdomainPrefix",
        name: "DNS1123SubdomainPrefix",
        validate: |s| names::dns1123_subdomain(s, true),
        regex_size: 60,
    },
    Format {
        key: "dns1035LabelPrefix",
        name: "DNS1035LabelPrefix",
        validate: |s| names::dns1035_label(s, true),
        regex_size: 30,
    },
    Format { key: "labelValue", name: "LabelValue", validate: names::is_valid_label_value, regex_size: 40 },
    Format { key: "uri", name: "URI", validate: |s| Url::parse(s).err().into_iter().collect(), regex_size: 854 },
    Format {
        key: "uuid",
        name: "uuid",
        validate: |s| complain(UUID.is_match(s), "does not match the UUID format"),
        regex_size: 77,
    },
    Format { key: "byte", name: "byte", validate: |s| complain(base64(s), "invalid base64"), regex_size: 85 },
    Format {
        key: "date",
        name: "date",
        validate: |s| complain(s.len() == 10 && crate::time::parse_openapi_time(s).is_some(), "invalid date"),
        regex_size: 128,
    },
    Format {
        key: "datetime",
        name: "datetime",
        validate: |s| complain(crate::time::parse_timestamp(s).is_some(), "invalid datetime"),
        regex_size: 128,
    },
];

fn base64(text: &str) -> bool {
    let padding = text.len() - text.trim_end_matches('=').len();
    !text.is_empty()
        && text.len().is_multiple_of(4)
        && padding <= 2
        && text[..text.len() - padding].bytes().all(|c| c.is_ascii_alphanumeric() || c == b'+' || c == b'/')
}

fn complain(valid: bool, message: &str) -> Vec<String> {
    if valid { Vec::new() } else { vec![message.to_owned()] }
}
