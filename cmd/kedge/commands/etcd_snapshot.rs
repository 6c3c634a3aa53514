//! `kedge etcd-snapshot`: saves, lists, restores and removes snapshots of the cluster's state.
//!
//! A running server does the work itself, asked through its admin socket; with no server the database is opened here.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use component_base::{Clock as _, RealClock};
use store::{SqliteConfig, SqliteStore, Store as _};

use crate::config::datastore::{database, snapshot_dir, snapshot_name};
use crate::config::{LogFormat, LogOptions};
use crate::server::admin::{self, Reply, Request};
use crate::snapshots::{self, Entry};

#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Save the state of the cluster now
    Save {
        #[command(flatten)]
        places: Places,
        /// What the file's name begins with
        #[arg(long, default_value = "on-demand", value_parser = snapshot_name)]
        name: String,
        /// How many of this name to keep; 0 for all
        #[arg(long, visible_alias = "retention", env = "KEDGE_ETCD_SNAPSHOT_RETENTION", default_value_t = 5)]
        snapshot_retention: usize,
    },
    /// List snapshots
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        places: Places,
        /// How to print them
        #[arg(long, short, value_enum, default_value = "table")]
        output: Output,
    },
    /// Replace the state of the cluster by a snapshot: the server restarts, the old database is kept
    Restore {
        #[command(flatten)]
        places: Places,
        /// Name of a snapshot, or path of its file
        snapshot: String,
    },
    /// Remove all but the newest snapshots of a name
    Prune {
        #[command(flatten)]
        places: Places,
        /// What the files' names begin with
        #[arg(long, default_value = "on-demand", value_parser = snapshot_name)]
        name: String,
        /// How many to keep
        #[arg(long, visible_alias = "retention", env = "KEDGE_ETCD_SNAPSHOT_RETENTION", default_value_t = 5)]
        snapshot_retention: usize,
    },
    /// Remove snapshots by name
    Delete {
        #[command(flatten)]
        places: Places,
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct Places {
    /// Folder of all state
    #[arg(long, short = 'd', env = "KEDGE_DATA_DIR", default_value = "/var/lib/kedge")]
    data_dir: PathBuf,
    /// Folder of the snapshots [default: <data-dir>/server/db/snapshots]
    #[arg(long, visible_alias = "etcd-snapshot-dir", env = "KEDGE_ETCD_SNAPSHOT_DIR")]
    dir: Option<PathBuf>,
    /// Name of this node, a part of the file's name [default: the host name]
    #[arg(long, env = "KEDGE_NODE_NAME")]
    node_name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
    Yaml,
}

impl Places {
    fn folder(&self) -> Result<PathBuf> {
        let folder = snapshot_dir(self.dir.as_deref(), &self.data_dir);
        std::path::absolute(&folder).with_context(|| format!("--dir {}", folder.display()))
    }

    fn node(&self) -> Result<String> {
        match &self.node_name {
            Some(name) => Ok(name.clone()),
            None => {
                Ok(nix::unistd::gethostname().context("cannot read the host name")?.to_string_lossy().to_lowercase())
            }
        }
    }
}

pub fn run(options: &Options) -> Result<()> {
    // What is done is printed; the log is for what goes wrong.
    crate::logging::init_at(&LogOptions { debug: false, log_format: LogFormat::Text }, "warn");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(execute(&options.command))
}

async fn execute(command: &Command) -> Result<()> {
    let mut out = std::io::stdout();
    match command {
        Command::Save { places, name, snapshot_retention } => {
            let entry = save(places, name, *snapshot_retention).await?;
            writeln!(out, "Snapshot {} saved.", entry.name)?;
        }
        Command::Ls { places, output } => print(&snapshots::list(&places.folder()?)?, *output)?,
        Command::Restore { places, snapshot } => {
            let file = std::path::absolute(snapshots::find(&places.folder()?, snapshot))?;
            let request = Request::SnapshotRestore { file: file.clone() };
            let (revision, keys, kept) = match admin::ask(&places.data_dir, &request).await? {
                Some(Reply::Restored { revision, keys, kept }) => (revision, keys, kept),
                Some(other) => bail!("the server gave a strange answer: {other:?}"),
                None => {
                    let done = snapshots::restore(&file, &places.data_dir, RealClock.now())?;
                    (done.revision, done.keys, done.kept)
                }
            };
            writeln!(out, "Restored {keys} keys from {}; the store is at revision {revision}.", file.display())?;
            if let Some(kept) = kept {
                writeln!(out, "The old database is kept as {}.", kept.display())?;
            }
        }
        Command::Prune { places, name, snapshot_retention } => {
            for entry in snapshots::prune(&places.folder()?, name, &places.node()?, *snapshot_retention)? {
                writeln!(out, "Snapshot {} deleted.", entry.name)?;
            }
        }
        Command::Delete { places, names } => {
            for name in names {
                snapshots::remove(&places.folder()?, name)?;
                writeln!(out, "Snapshot {name} deleted.")?;
            }
        }
    }
    Ok(())
}

async fn save(places: &Places, name: &str, retention: usize) -> Result<Entry> {
    let folder = places.dir.as_ref().map(|_| places.folder()).transpose()?;
    let request = Request::SnapshotSave { name: name.to_owned(), folder, retention };
    match admin::ask(&places.data_dir, &request).await? {
        Some(Reply::Saved(entry)) => return Ok(entry),
        Some(other) => bail!("the server gave a strange answer: {other:?}"),
        None => {}
    }
    let database = database(&places.data_dir);
    if !Path::new(&database).exists() {
        bail!("no server is running and there is no database {}: see --data-dir", database.display());
    }
    let mut config = SqliteConfig::new(&database, RealClock::shared());
    config.auto_compaction = store::AutoCompaction::Off;
    let store = SqliteStore::open(config).await?;
    let (folder, node) = (places.folder()?, places.node()?);
    let saved = snapshots::save(&*store, &RealClock, &folder, name, &node).await;
    store.close().await?;
    let entry = saved?;
    snapshots::prune(&folder, name, &node, retention)?;
    Ok(entry)
}

fn print(entries: &[Entry], output: Output) -> Result<()> {
    let mut out = std::io::stdout();
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(entries)?)?,
        Output::Yaml => write!(out, "{}", serde_saphyr::to_string(&entries)?)?,
        Output::Table => {
            let name = entries.iter().map(|entry| entry.name.len()).max().unwrap_or(0).max(4);
            let location = entries.iter().map(|entry| entry.location.len()).max().unwrap_or(0).max(8);
            writeln!(out, "{:<name$} {:<location$} {:<12} Created", "Name", "Location", "Size")?;
            for entry in entries {
                writeln!(
                    out,
                    "{:<name$} {:<location$} {:<12} {}",
                    entry.name, entry.location, entry.size, entry.created
                )?;
                if !entry.message.is_empty() {
                    tracing::warn!("{}", entry.message);
                }
            }
        }
    }
    Ok(())
}
