//! Running a program to its end, with a limit.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a program said.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub line: String,
    /// None: ended by a signal, or by us at the limit.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Both streams, as a terminal would show them.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Standard output of a program that must not fail.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.success(), "`{}` failed ({:?}): {}", self.line, self.code, self.text().trim());
        self.stdout
    }

    /// Standard error of a program that must fail.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(self.code.is_some_and(|code| code != 0), "`{}` should fail, but: {}", self.line, self.text().trim());
        self.stderr
    }
}

/// Runs `command`; past `limit` it is killed.
#[track_caller]
pub fn run(command: &mut Command, stdin: Option<&str>, limit: Duration) -> Output {
    let line = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<String> = line.map(|word| word.to_string_lossy().into_owned()).collect();
    let line = line.join(" ");
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = match command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => panic!("`{line}` does not start: {error}"),
    };
    let feeding = stdin.map(str::to_owned).zip(child.stdin.take()).map(|(text, mut pipe)| {
        // A program may end without reading all of it.
        std::thread::spawn(move || drop(pipe.write_all(text.as_bytes())))
    });
    let mut out = child.stdout.take().expect("standard output is piped");
    let mut err = child.stderr.take().expect("standard error is piped");
    let reading_out = std::thread::spawn(move || read_all(&mut out));
    let reading_err = std::thread::spawn(move || read_all(&mut err));
    let code = wait(&mut child, limit);
    if let Some(thread) = feeding {
        let _ = thread.join();
    }
    let stdout = reading_out.join().unwrap_or_default();
    let mut stderr = reading_err.join().unwrap_or_default();
    if code.is_none() {
        stderr.push_str(&format!("\n(ended by a signal, or killed after {limit:?})"));
    }
    Output { line, code, stdout, stderr }
}

fn read_all(from: &mut dyn std::io::Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The exit code, or None after killing it at the limit.
pub fn wait(child: &mut Child, limit: Duration) -> Option<i32> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.code(),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

/// Runs a program whose failure does not matter; its standard output.
pub fn quiet<S: AsRef<OsStr>>(program: &str, args: &[S]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Sends `signal` (`TERM`, `KILL`) to one process.
pub fn signal(pid: u32, signal: &str) {
    quiet("kill", &[format!("-{signal}"), pid.to_string()]);
}

/// The path of a program, as a shell would find it, the system folders included.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Polls until `probe` gives something; a panic that names `what` at the limit.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
