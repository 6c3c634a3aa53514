//! Finding and running unmodified kubectl.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command::{self, Output};

/// How long any one kubectl may take unless a test says otherwise.
pub const LIMIT: Duration = Duration::from_secs(90);

/// One kubectl with one kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Kubectl {
    pub fn new(program: &Path, kubeconfig: &Path, home: &Path) -> Self {
        Self { program: program.to_owned(), kubeconfig: kubeconfig.to_owned(), home: home.to_owned() }
    }

    /// A command ready for arguments: for streams that a test reads while they run.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // Its cache goes where it is thrown away.
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.home).env_remove("KUBECTL_EXTERNAL_DIFF");
        command
    }

    #[track_caller]
    pub fn run(&self, args: &[&str], stdin: Option<&str>) -> Output {
        command::run(self.command().args(args), stdin, LIMIT)
    }
}

/// The newest kubectl that we test with: `$KUBECTL`, 1.33, then whatever PATH has.
pub fn current() -> Option<PathBuf> {
    let named = std::env::var_os("KUBECTL").map(PathBuf::from);
    named.filter(|path| path.is_file()).or_else(|| version("1.33")).or_else(|| command::find("kubectl"))
}

/// An old one, which speaks SPDY.
pub fn old() -> Option<PathBuf> {
    let named = std::env::var_os("KUBECTL_OLD").map(PathBuf::from);
    named.filter(|path| path.is_file()).or_else(|| version("1.27"))
}

fn version(version: &str) -> Option<PathBuf> {
    let name = format!("kubectl.{version}");
    let sdk = Path::new("/usr/lib/google-cloud-sdk/bin").join(&name);
    if sdk.is_file() { Some(sdk) } else { command::find(&name) }
}
