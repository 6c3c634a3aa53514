//! A server that is measured, and what the kernel knows of it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kedge_tests::command;
use kedge_tests::http::free_port;

pub(super) struct Subject {
    name: &'static str,
    pub(super) url: String,
    argv: Vec<String>,
    child: Option<Child>,
    folder: tempfile::TempDir,
}

impl Subject {
    pub(super) fn start(name: &'static str, template: &str, folder: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("kedge-bench.").tempdir_in(folder).expect("the folder is ours");
        let (url, peer) = [free_port(), free_port()].map(|port| format!("http://127.0.0.1:{port}")).into();
        let data = folder.path().join("data").display().to_string();
        let fill = |word: &str| word.replace("{dir}", &data).replace("{url}", &url).replace("{peer}", &peer);
        let argv = template.split_whitespace().map(fill).collect();
        let mut this = Self { name, url, argv, child: None, folder };
        this.spawn();
        this.wait();
        this
    }

    pub(super) fn spawn(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).expect("the folder is ours");
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.argv[0])));
    }

    fn wait(&mut self) {
        let address = self.url.trim_start_matches("http://").to_owned();
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(&address).is_err() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "{} does not start: {}", self.name, log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it, cleanly; [`Subject::spawn`] starts it again.
    pub(super) fn restart(&mut self) {
        if let Some(mut child) = self.child.take() {
            command::signal(child.id(), "TERM");
            command::wait(&mut child, Duration::from_secs(30));
        }
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().map(Child::id).expect("it runs")
    }

    /// Bytes that it had written to disk.
    pub(super) fn written(&self) -> f64 {
        crate::written(self.pid())
    }

    /// Megabytes resident, and how much of that is no file's.
    pub(super) fn resident(&self) -> (f64, f64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let of = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let kib: f64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
            kib * 1024.0 / 1e6
        };
        (of("VmRSS:"), of("RssAnon:"))
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What one writer that waits for the disk can do: appending 4 KiB at a time to a new file (each changes its length, which is
/// a second write for the file system), and overwriting a file that is there (as a write-ahead log that starts over).
pub(super) fn fsyncs_per_second(folder: &Path, time: Duration, append: bool) -> f64 {
    use std::io::{Seek as _, SeekFrom, Write as _};
    const BLOCKS: u64 = 4096;
    let mut file = tempfile::tempfile_in(folder).expect("the folder is ours");
    if !append {
        file.write_all(&vec![0; 4096 * BLOCKS as usize]).expect("there is room");
        file.sync_all().expect("the disk works");
        file.rewind().expect("a file has a start");
    }
    let (begun, mut count) = (Instant::now(), 0_u32);
    while begun.elapsed() < time {
        file.write_all(&[1; 4096]).expect("there is room");
        file.sync_data().expect("the disk works");
        count += 1;
        if !append && u64::from(count) % BLOCKS == 0 {
            file.seek(SeekFrom::Start(0)).expect("a file has a start");
        }
    }
    f64::from(count) / begun.elapsed().as_secs_f64()
}
