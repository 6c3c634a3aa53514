//! Recorded behaviour of a real kube-apiserver, replayed against the built kedge, with a ratchet: `passing.txt` names
//! the cases that pass, and may only grow.
//!
//! `scripts/test.sh oracle [--record] [--filter GLOB]... [--show]`
//!
//! Invariants:
//! - OR-1: a case in passing.txt that fails twice (the second time alone) fails the run.
//! - OR-2: a case is recorded only after it passed twice.

#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use kedge_tests::command;
use kedge_tests::http::port_or_free;
use kedge_tests::server::{Server, binary};

/// The recording had no node, no scheduler and no controllers either, and this service network.
const ARGS: &[&str] = &[
    "--disable-agent",
    "--disable-scheduler",
    "--disable-controller-manager",
    "--service-cidr",
    "10.96.0.0/16",
    "--bind-address",
    "127.0.0.1",
];

/// The recording's port: documents of the server itself (the Service `kubernetes`) name it.
const PORT: u16 = 16443;

/// Cases that run side by side. Most of a failing case's time is waiting for what does not come.
const JOBS: u32 = 10;

#[derive(Default)]
struct Options {
    record: bool,
    show: bool,
    filters: Vec<String>,
}

fn options() -> Result<Options, String> {
    let mut options = Options::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--record" => options.record = true,
            "--show" => options.show = true,
            "--filter" => options.filters.push(args.next().ok_or("--filter wants a glob, as 'apply/*'")?),
            other => return Err(format!("unknown option {other}: allowed are --record, --show, --filter GLOB")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("oracle: {message}");
            return ExitCode::FAILURE;
        }
    };
    let Some(folder) = folder() else {
        let ci = std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false");
        println!(
            "oracle: {}: no recorded cases here: set KEDGE_ORACLE to their folder",
            if ci { "FAILED" } else { "skipped" }
        );
        println!("0 passed, {} failed", u8::from(ci));
        return if ci { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    };
    run(&options, &folder)
}

/// The folder with replay.py and cases/.
fn folder() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let named = std::env::var_os("KEDGE_ORACLE").map(PathBuf::from);
    named.into_iter().chain([root.join("../shared/oracle")]).find(|folder| folder.join("replay.py").is_file())
}

fn run(options: &Options, folder: &Path) -> ExitCode {
    let mut server = Server::on_port(port_or_free(PORT), &binary(), ARGS);
    server.spawn();
    server.wait_for_api(Duration::from_secs(30));
    server.get("/version"); // writes the credentials' files
    let replay = Replay { server: &server, folder };
    let passing_file = Path::new(env!("CARGO_MANIFEST_DIR")).join("oracle/passing.txt");
    let recorded: BTreeSet<String> = lines(&std::fs::read_to_string(&passing_file).unwrap_or_default());

    let filters: Vec<&str> = options.filters.iter().map(String::as_str).collect();
    let all = replay.list(&filters);
    let begun = Instant::now();
    let (failed, text) = replay.cases(&filters, JOBS);
    if options.show {
        println!("{text}");
    }
    let mut broken: BTreeSet<String> = failed.intersection(&recorded).cloned().collect();
    let mut reasons = String::new();
    if !broken.is_empty() {
        println!("once more, alone: {} recorded cases that failed", broken.len());
        let (again, text) = replay.ids(&broken, 1);
        broken = again;
        reasons = text;
    }
    let mut new: BTreeSet<String> = all.difference(&failed).filter(|id| !recorded.contains(*id)).cloned().collect();
    if options.record && !new.is_empty() {
        let (unsteady, _) = replay.ids(&new, JOBS);
        new.retain(|id| !unsteady.contains(id));
    }

    table(&all, &failed, &recorded);
    println!("replayed in {:.0} s", begun.elapsed().as_secs_f32());
    let unknown: Vec<&String> = recorded.iter().filter(|id| options.filters.is_empty() && !all.contains(*id)).collect();
    if !unknown.is_empty() {
        println!("in passing.txt, but not among the cases: {unknown:?}");
    }
    if options.record {
        let union: Vec<&String> = recorded.union(&new).collect();
        let text: String = union.iter().map(|id| format!("{id}\n")).collect();
        std::fs::write(&passing_file, text).expect("tests/oracle/passing.txt can be written");
        println!("recorded {} more: {} in tests/oracle/passing.txt", new.len(), union.len());
    } else if !new.is_empty() {
        println!("{} cases pass that are not recorded; `scripts/test.sh oracle --record` adds them:", new.len());
        for id in new.iter().take(20) {
            println!("  {id}");
        }
    }
    server.assert_alive();
    if !broken.is_empty() {
        println!("{reasons}");
        println!("recorded as passing, fail now:");
        for id in &broken {
            println!("  {id}");
        }
        println!("{}", server.log_tail(15));
    }
    // What fails and never passed is the table's business, not this run's.
    println!("{} passed, {} failed", all.intersection(&recorded).count() - broken.len(), broken.len());
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Replay<'a> {
    server: &'a Server,
    folder: &'a Path,
}

impl Replay<'_> {
    fn command(&self, filters: &[&str]) -> Command {
        let (ca, cert, key) = self.server.credentials();
        let mut command = Command::new("python3");
        command.arg(self.folder.join("replay.py"));
        command.args(["--server", &format!("https://127.0.0.1:{}", self.server.port)]);
        command.arg("--ca").arg(ca).arg("--cert").arg(cert).arg("--key").arg(key);
        for filter in filters {
            command.args(["--filter", filter]);
        }
        command
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.join("cases")).expect("the oracle has cases/").flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        files.sort();
        files
    }

    fn list(&self, filters: &[&str]) -> BTreeSet<String> {
        let mut command = self.command(filters);
        lines(&command::run(command.arg("--list").args(self.files()), None, Duration::from_secs(60)).ok())
    }

    /// The ids that failed, and what the replayer said.
    fn cases(&self, filters: &[&str], jobs: u32) -> (BTreeSet<String>, String) {
        let failed = self.server.places.join("failed.txt");
        let _ = std::fs::remove_file(&failed);
        let mut command = self.command(filters);
        command.args(["--jobs", &jobs.to_string(), "--cap", "6"]).arg("--failed-to").arg(&failed).args(self.files());
        let output = command::run(&mut command, None, Duration::from_secs(1200));
        let ids = std::fs::read_to_string(&failed);
        let ids = ids.unwrap_or_else(|_| panic!("the replayer did not finish: {}", output.text()));
        (lines(&ids), output.stdout)
    }

    /// The same for single cases: ids have no glob characters but `[`, which is escaped.
    fn ids(&self, ids: &BTreeSet<String>, jobs: u32) -> (BTreeSet<String>, String) {
        let globs: Vec<String> = ids.iter().map(|id| id.replace('[', "[[]")).collect();
        self.cases(&globs.iter().map(String::as_str).collect::<Vec<_>>(), jobs)
    }
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn table(all: &BTreeSet<String>, failed: &BTreeSet<String>, recorded: &BTreeSet<String>) {
    let category = |id: &str| id.split('/').next().unwrap_or_default().to_owned();
    let mut rows: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    for id in all {
        for key in [category(id), "total".into()] {
            let row = rows.entry(key).or_default();
            row[usize::from(failed.contains(id))] += 1;
            row[2] += usize::from(recorded.contains(id));
        }
    }
    println!("{:<18} {:>7} {:>7} {:>9}", "category", "passed", "failed", "recorded");
    let total = rows.remove("total");
    for (name, [passed, failed, recorded]) in rows.into_iter().chain(total.map(|row| ("total".to_owned(), row))) {
        println!("{name:<18} {passed:>7} {failed:>7} {recorded:>9}");
    }
}
