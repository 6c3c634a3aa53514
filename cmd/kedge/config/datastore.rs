//! Where the state lies, and how it is saved. The names are k3s's.

use std::path::{Path, PathBuf};

use clap::Args;
use controller_manager::controllers::cronjob::schedule::Schedule;

#[derive(Debug, Clone, Args)]
pub struct DatastoreOptions {
    /// Keep the state in this etcd cluster, https://host:2379 for each member, instead of in the data folder
    #[arg(
        long,
        env = "KEDGE_DATASTORE_ENDPOINT",
        value_delimiter = ',',
        value_parser = endpoint,
        help_heading = "Datastore"
    )]
    pub datastore_endpoint: Vec<String>,
    /// Certificate authority of the cluster, PEM
    #[arg(long, env = "KEDGE_DATASTORE_CAFILE", requires = "datastore_endpoint", help_heading = "Datastore")]
    pub datastore_cafile: Option<PathBuf>,
    /// Our certificate for the cluster, PEM
    #[arg(long, env = "KEDGE_DATASTORE_CERTFILE", requires = "datastore_keyfile", help_heading = "Datastore")]
    pub datastore_certfile: Option<PathBuf>,
    /// The certificate's key, PEM
    #[arg(long, env = "KEDGE_DATASTORE_KEYFILE", requires = "datastore_certfile", help_heading = "Datastore")]
    pub datastore_keyfile: Option<PathBuf>,
}

impl DatastoreOptions {
    /// Whether the state lies in a cluster of its own.
    pub fn external(&self) -> bool {
        !self.datastore_endpoint.is_empty()
    }

    /// What one option alone cannot know.
    ///
    /// # Errors
    /// Names the option and what is missing.
    pub fn validate(&self) -> Result<(), String> {
        match self.datastore_endpoint.iter().find(|endpoint| endpoint.starts_with("https://")) {
            Some(endpoint) if self.datastore_cafile.is_none() => Err(format!(
                "--datastore-endpoint {endpoint}: give the authority of its certificate with --datastore-cafile"
            )),
            _ => Ok(()),
        }
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    const WANT: &str = "want http://host:port or https://host:port of an etcd";
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or(WANT)?;
    let rest = rest.trim_end_matches('/');
    let port = rest.rsplit_once(':').map(|(host, port)| (host.is_empty(), port.parse::<u16>()));
    match port {
        Some((false, Ok(1..))) if !rest.contains('/') => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err(WANT.into()),
    }
}

#[derive(Debug, Clone, Args)]
pub struct SnapshotOptions {
    /// Take no snapshots on a schedule
    #[arg(long, env = "KEDGE_ETCD_DISABLE_SNAPSHOTS", help_heading = "Datastore")]
    pub etcd_disable_snapshots: bool,
    /// When to take a snapshot, in cron's notation and local time
    #[arg(
        long,
        env = "KEDGE_ETCD_SNAPSHOT_SCHEDULE_CRON",
        default_value = "0 */12 * * *",
        value_parser = schedule,
        help_heading = "Datastore"
    )]
    pub etcd_snapshot_schedule_cron: Cron,
    /// How many scheduled snapshots are kept
    #[arg(long, env = "KEDGE_ETCD_SNAPSHOT_RETENTION", default_value_t = 5, help_heading = "Datastore")]
    pub etcd_snapshot_retention: usize,
    /// Folder of the snapshots [default: <data-dir>/server/db/snapshots]
    #[arg(long, env = "KEDGE_ETCD_SNAPSHOT_DIR", help_heading = "Datastore")]
    pub etcd_snapshot_dir: Option<PathBuf>,
    /// What the names of scheduled snapshots begin with
    #[arg(
        long,
        env = "KEDGE_ETCD_SNAPSHOT_NAME",
        default_value = "etcd-snapshot",
        value_parser = snapshot_name,
        help_heading = "Datastore"
    )]
    pub etcd_snapshot_name: String,
}

/// A schedule and how it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    pub text: String,
    pub schedule: Schedule,
}

/// The folder of snapshots that goes with `data_dir`.
pub fn snapshot_dir(given: Option<&Path>, data_dir: &Path) -> PathBuf {
    given.map_or_else(|| data_dir.join("server/db/snapshots"), Path::to_path_buf)
}

/// The database that goes with `data_dir`.
pub fn database(data_dir: &Path) -> PathBuf {
    data_dir.join("server/db/state.db")
}

fn schedule(text: &str) -> Result<Cron, String> {
    let schedule = Schedule::parse(text)
        .ok_or("want five fields, as \"0 */12 * * *\", or @hourly, @daily, @weekly, @monthly, @every 6h")?;
    Ok(Cron { text: text.to_owned(), schedule })
}

/// A part of a file name.
pub fn snapshot_name(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.starts_with('.') || text.len() > 150 || !text.chars().all(fine) {
        return Err("want letters, digits, '-', '_' and '.', not beginning with '.'".into());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked() {
        assert_eq!(endpoint("https://a:2379/"), Ok("https://a:2379".into()));
        assert_eq!(endpoint("http://[::1]:2379"), Ok("http://[::1]:2379".into()));
        for bad in ["a:2379", "https://a", "https://:1", "http://a:0", "mysql://a:1", "http://a:1/x"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn schedules_and_names_are_checked() {
        assert!(schedule("0 */12 * * *").is_ok());
        assert!(schedule("@every 1h").is_ok());
        assert!(schedule("often").unwrap_err().starts_with("want five fields"));
        assert_eq!(snapshot_name("a-b.c"), Ok("a-b.c".into()));
        for bad in ["", ".a", "a/b", "a b", "../x"] {
            assert!(snapshot_name(bad).is_err(), "{bad}");
        }
    }
}
