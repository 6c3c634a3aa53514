//! Processes: those that outlive us, those whose output we want, and questions about any of them.
//!
//! Invariants:
//! - PR-1: a detached process is in a session of its own: no signal to us or our terminal reaches it.
//! - PR-2: a process is only ever signalled by its id.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What to start.
#[derive(Debug, Clone, Default)]
pub struct Program {
    pub path: PathBuf,
    pub args: Vec<OsString>,
    /// Added to the inherited environment.
    pub env: Vec<(String, String)>,
}

impl Program {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    #[allow(clippy::disallowed_methods)] // The one place that spawns.
    fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.path);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// A process that outlives us.
#[derive(Debug)]
pub struct Detached {
    pub pid: u32,
    child: tokio::process::Child,
}

impl Detached {
    /// Waits for its end; the exit status as text.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn wait(&mut self) -> io::Result<String> {
        Ok(self.child.wait().await?.to_string())
    }
}

/// Starts `program` in a session of its own with its output appended to `log`.
///
/// # Errors
/// When the log cannot be opened or the program not started.
#[allow(unsafe_code)]
pub fn spawn_detached(program: &Program, log: &Path) -> io::Result<Detached> {
    let out = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = program.command();
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).current_dir("/");
    // SAFETY: setsid(2) is async-signal-safe, and nothing else runs between fork and exec.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(|_| ()).map_err(io::Error::from));
    }
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(false);
    let child = command.spawn()?;
    let pid = child.id().ok_or_else(|| io::Error::other("ended at once"))?;
    Ok(Detached { pid, child })
}

/// What a finished program left.
#[derive(Debug, Clone)]
pub struct Output {
    pub success: bool,
    pub status: String,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Runs `program` to its end, or kills it after `timeout`.
///
/// # Errors
/// When it cannot be started or does not end in time.
pub async fn run(program: &Program, timeout: Duration) -> io::Result<Output> {
    let mut command = tokio::process::Command::from(program.command());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(timeout, command.output())
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "did not end in time"))??;
    Ok(Output {
        success: output.status.success(),
        status: output.status.to_string(),
        stdout: output.stdout,
        stderr: output.stderr,
    })
}

/// Whether process `pid` exists and is no zombie.
pub fn alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The name, in parentheses, may hold anything; the state follows its last one.
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// The command line of `pid`, or nothing.
pub fn command_line(pid: u32) -> Vec<String> {
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    raw.split(|byte| *byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

/// Asks `pid` to end.
///
/// # Errors
/// When there is no such process, or it is not ours.
pub fn terminate(pid: u32) -> io::Result<()> {
    signal(pid, Signal::SIGTERM)
}

/// Kills `pid`.
///
/// # Errors
/// When there is no such process, or it is not ours.
pub fn force_kill(pid: u32) -> io::Result<()> {
    signal(pid, Signal::SIGKILL)
}

fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    if pid <= 1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    kill(Pid::from_raw(pid), signal).map_err(io::Error::from)
}

/// The first program called `name` in `PATH`-like `dirs`.
pub fn find(name: &str, dirs: &[&str]) -> Option<PathBuf> {
    dirs.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// Kernel release and machine architecture (`6.1.0`, `x86_64`).
///
/// # Errors
/// When the kernel does not tell.
pub fn kernel() -> io::Result<(String, String)> {
    let info = nix::sys::utsname::uname().map_err(io::Error::from)?;
    Ok((info.release().to_string_lossy().into_owned(), info.machine().to_string_lossy().into_owned()))
}

/// The host name of this machine.
///
/// # Errors
/// When the kernel does not tell.
pub fn hostname() -> io::Result<String> {
    Ok(nix::unistd::gethostname().map_err(io::Error::from)?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_detached_process_runs_in_its_own_session_and_logs() {
        let dir = tempfile::tempdir().expect("tempdir");
        let log = dir.path().join("log");
        let program =
            Program::new("/bin/sh").arg("-c").arg("echo $WORD; cut -d' ' -f6 /proc/self/stat").env("WORD", "hi");
        let mut child = spawn_detached(&program, &log).expect("starts");
        let status = child.wait().await.expect("ends");
        assert_eq!(status, "exit status: 0");
        assert_eq!(std::fs::read_to_string(log).expect("log"), format!("hi\n{}\n", child.pid));
        assert!(!alive(child.pid));
    }

    #[tokio::test]
    async fn output_and_time_limit() {
        let output = run(&Program::new("/bin/echo").arg("x"), Duration::from_secs(10)).await.expect("runs");
        assert!(output.success);
        assert_eq!(output.stdout, b"x\n");
        let late = run(&Program::new("/bin/sleep").arg("60"), Duration::from_millis(20)).await;
        assert_eq!(late.expect_err("killed").kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn knows_about_ourselves() {
        let pid = std::process::id();
        assert!(alive(pid));
        assert!(!command_line(pid).is_empty());
        assert!(terminate(1).is_err());
        assert!(find("sh", &["/nowhere", "/bin"]).is_some());
    }
}
