//! The local face for `kedge` commands on this machine: a unix socket in the data folder, for root alone.
//!
//! One request and one reply, each a line of JSON. It outlives the restarts that it asks for, so that a command hears how
//! they went.
//!
//! Invariants:
//! - AD-1: the socket is 0600 from its first moment, and only there while a server holds the data folder.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};
use component_base::{SharedClock, TaskGroup};
use serde::{Deserialize, Serialize};
use store::Store;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use crate::snapshots::{self, Entry};

const MAX_LINE: u64 = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// `retention`: how many of this name are kept; 0 for all.
    SnapshotSave {
        name: String,
        folder: Option<PathBuf>,
        retention: usize,
    },
    SnapshotRestore {
        file: PathBuf,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Saved(Entry),
    Restored { revision: i64, keys: u64, kept: Option<PathBuf> },
    Failed(String),
}

/// A restore that waits for the server to have stopped.
pub struct Restore {
    pub file: PathBuf,
    pub reply: oneshot::Sender<Reply>,
}

/// What the commands may do to the running server.
pub struct Control {
    pub node_name: String,
    pub snapshot_dir: PathBuf,
    /// The state lies in a cluster of its own, which we cannot restore.
    pub external: bool,
    pub clock: SharedClock,
    store: Mutex<Option<Arc<dyn Store>>>,
    restores: mpsc::Sender<Restore>,
}

impl Control {
    pub fn new(
        node_name: String,
        snapshot_dir: PathBuf,
        external: bool,
        clock: SharedClock,
    ) -> (Arc<Self>, mpsc::Receiver<Restore>) {
        let (restores, receiver) = mpsc::channel(1);
        let this = Self { node_name, snapshot_dir, external, clock, store: Mutex::new(None), restores };
        (Arc::new(this), receiver)
    }

    /// The store that serves now; `None` while there is none.
    pub fn serve(&self, store: Option<Arc<dyn Store>>) {
        *self.store.lock().expect("no panic while it is held") = store;
    }

    async fn answer(&self, request: Request) -> Result<Reply> {
        match request {
            Request::SnapshotSave { name, folder, retention } => {
                let store = self.store.lock().expect("no panic while it is held").clone();
                let store = store.context("the server is starting or stopping: try again")?;
                let folder = folder.unwrap_or_else(|| self.snapshot_dir.clone());
                let entry = snapshots::save(&*store, &*self.clock, &folder, &name, &self.node_name).await?;
                snapshots::prune(&folder, &name, &self.node_name, retention)?;
                Ok(Reply::Saved(entry))
            }
            Request::SnapshotRestore { file } => {
                if self.external {
                    bail!("the state lies in an external etcd: restore it there");
                }
                // A bad file must not cost a restart.
                let path = file.clone();
                tokio::task::spawn_blocking(move || store::snapshot::inspect(&path)).await??;
                info!(file = %file.display(), "restoring a snapshot: the server restarts");
                let (reply, answer) = oneshot::channel();
                if self.restores.try_send(Restore { file, reply }).is_err() {
                    bail!("a restore is under way already");
                }
                Ok(answer.await.context("the server stopped before the restore")?)
            }
        }
    }
}

/// Where the socket of the server with this data folder is.
pub fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join("server/admin.sock")
}

/// Listens until `tasks` stop. The caller holds the data folder.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen(data_dir: &Path, control: &Arc<Control>, tasks: &TaskGroup) -> Result<()> {
    let path = socket(data_dir);
    let failed = || format!("cannot listen on {}", path.display());
    // Left by a server that was killed: we hold the folder.
    if path.exists() {
        std::fs::remove_file(&path).with_context(failed)?;
    }
    // Under a name that nobody knows until its mode is right (AD-1); the folder lets nobody else in either way.
    let fresh = path.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).with_context(failed)?;
    std::fs::set_permissions(&fresh, Permissions::from_mode(0o600)).with_context(failed)?;
    std::fs::rename(&fresh, &path).with_context(failed)?;
    let (control, connections) = (Arc::clone(control), tasks.clone());
    tasks.spawn(async move {
        let _remove = Remove(path);
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let control = Arc::clone(&control);
                    connections.spawn(async move {
                        if let Err(error) = converse(stream, &control).await {
                            debug!(%error, "an admin connection ended");
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept on the admin socket");
                    control.clock.sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    });
    Ok(())
}

struct Remove(PathBuf);

impl Drop for Remove {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn converse(stream: UnixStream, control: &Control) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(MAX_LINE)).read_line(&mut line).await?;
    let reply = match serde_json::from_str(&line) {
        Ok(request) => control.answer(request).await.unwrap_or_else(|error| Reply::Failed(format!("{error:#}"))),
        Err(error) => Reply::Failed(format!("not understood: {error}")),
    };
    let mut text = serde_json::to_string(&reply)?;
    text.push('\n');
    write.write_all(text.as_bytes()).await?;
    Ok(())
}

/// Asks the server of `data_dir`. `None`: there is none.
///
/// # Errors
/// What the server says, or that it does not answer.
pub async fn ask(data_dir: &Path, request: &Request) -> Result<Option<Reply>> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let path = socket(data_dir);
    let mut stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) if [NotFound, ConnectionRefused].contains(&error.kind()) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot reach the server at {}", path.display())),
    };
    let mut text = serde_json::to_string(request)?;
    text.push('\n');
    stream.write_all(text.as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    match serde_json::from_str(&line).context("the server went away before it answered")? {
        Reply::Failed(message) => bail!(message),
        reply => Ok(Some(reply)),
    }
}
