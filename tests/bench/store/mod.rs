//! `scripts/bench store`: kedge's store beside Debian's etcd, in the same run, with the same client, on the same disk,
//! fsync on both.
//!
//! Each measurement is made with one and then with the other before the next begins, so that whatever else the machine does
//! hits both alike.

mod load;
mod report;
mod subject;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use etcd_client::Client;

use self::load::Figures;
use self::report::Report;
use self::subject::Subject;

pub(crate) const VALUE: usize = 2048;

struct Options {
    /// How long each load lasts.
    load: Duration,
    folder: PathBuf,
    etcd: String,
    kedge: String,
    only: Vec<String>,
}

const USAGE: &str =
    "bench store [--quick] [--seconds N] [--folder DIR] [--only PART]... [--etcd COMMAND] [--kedge COMMAND]
  COMMAND starts a server: {dir} is its folder, {url} where clients are to reach it, {peer} another free address";

fn options(args: &[String]) -> Result<Options, String> {
    let kedge = kedge_tests::server::binary_if_any().map_or_else(|| "kedge".into(), |path| path.display().to_string());
    let mut options = Options {
        load: Duration::from_secs(10),
        folder: std::env::temp_dir(),
        etcd: "etcd --log-level error --quota-backend-bytes 8589934592 --data-dir {dir} --listen-client-urls {url} \
               --advertise-client-urls {url} --listen-peer-urls {peer} --initial-advertise-peer-urls {peer} \
               --initial-cluster default={peer}"
            .into(),
        kedge: format!("{kedge} etcd --data-dir {{dir}} --listen-address {{url}}"),
        only: Vec::new(),
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().cloned().ok_or_else(|| format!("{arg} wants a value\n{USAGE}"));
        match arg.as_str() {
            "--quick" => options.load = Duration::from_secs(3),
            "--seconds" => {
                let seconds = value()?.parse().map_err(|_| USAGE.to_owned())?;
                options.load = Duration::from_secs(seconds);
            }
            "--folder" => options.folder = value()?.into(),
            "--etcd" => options.etcd = value()?,
            "--kedge" => options.kedge = value()?,
            "--only" => options.only.push(value()?),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

pub(crate) fn main(args: &[String]) -> ExitCode {
    let options = match options(args) {
        Ok(options) => options,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(run(&options));
    ExitCode::SUCCESS
}

async fn run(options: &Options) {
    let wanted =
        |part: &str| options.only.is_empty() || options.only.iter().any(|only| part.starts_with(only.as_str()));
    let mut report = Report::default();
    let [appends, overwrites] = [true, false]
        .map(|append| subject::fsyncs_per_second(&options.folder, options.load.min(Duration::from_secs(3)), append));
    report.note(format!(
        "disk, one writer, 4 KiB and fdatasync: {appends:.0} appends a second, {overwrites:.0} overwrites a second"
    ));
    let commands = [("etcd", &options.etcd), ("kedge", &options.kedge)];
    let start = |parts: &'static str| {
        eprintln!("{parts}");
        commands.map(|(name, command)| Subject::start(name, command, &options.folder))
    };

    if wanted("put") || wanted("mixed") || wanted("range") || wanted("watch") {
        let subjects = start("rates");
        for clients in [1, 8, 64, 512] {
            if !wanted("put") {
                break;
            }
            let mut row = Vec::new();
            for subject in &subjects {
                let before = subject.written();
                let figures = load::puts(&subject.url, clients, options.load).await;
                let per_put = (subject.written() - before) / figures.count().max(1) as f64;
                row.push((figures, per_put));
            }
            let goal = if clients == 1 { "no worse" } else { ">= 2x, half p99" };
            report.rates(&format!("put, {clients} clients"), goal, [&row[0].0, &row[1].0]);
            let amplification = [0, 1].map(|i| format!("{:.1} KiB", row[i].1 / 1024.0));
            report.row(&format!("bytes written a put, {clients} clients"), "-", amplification, row[0].1 / row[1].1);
        }
        if wanted("mixed") {
            let mut row = Vec::new();
            for subject in &subjects {
                row.push(load::mixed(&subject.url, 64, options.load).await);
            }
            for (i, kind) in load::KINDS.iter().enumerate() {
                report.rates(&format!("mixed, 64 clients: {kind}"), "-", [&row[0][i], &row[1][i]]);
            }
        }
        if wanted("range") {
            for subject in &subjects {
                load::fill(&subject.url, "range/", 0..10_000).await;
            }
            for keys in [1, 100, 10_000] {
                let mut row: Vec<Figures> = Vec::new();
                for subject in &subjects {
                    row.push(load::ranges(&subject.url, keys, 8, options.load).await);
                }
                report.rates(&format!("range of {keys} keys, 8 clients"), ">= 3x", [&row[0], &row[1]]);
            }
        }
        if wanted("watch") {
            for watchers in [1, 100, 1000] {
                let mut row = Vec::new();
                for subject in &subjects {
                    row.push(load::watches(&subject.url, watchers, 200).await);
                }
                report.rates(&format!("watch: events delivered to {watchers} watchers"), "-", [&row[0], &row[1]]);
            }
        }
    }

    if wanted("memory") || wanted("start") {
        let mut subjects = start("memory and start-up");
        let mut at = [Vec::new(), Vec::new()];
        for (total, seen) in [(0..0, "none"), (0..10_000, "10k"), (10_000..100_000, "100k")] {
            eprintln!("objects: {seen}");
            for (subject, at) in subjects.iter().zip(&mut at) {
                load::fill(&subject.url, "object/", total.clone()).await;
                tokio::time::sleep(Duration::from_secs(3)).await;
                at.push(subject.resident());
            }
        }
        for (i, (what, goal)) in
            [("no object", "-"), ("10,000 objects of 2 KiB", "< 1/3"), ("100,000 objects of 2 KiB", "no more")]
                .into_iter()
                .enumerate()
        {
            let cells = [0, 1].map(|s| format!("{:.0} MB ({:.0} MB of it anonymous)", at[s][i].0, at[s][i].1));
            report.row(&format!("resident memory, {what}"), goal, cells, at[0][i].0 / at[1][i].0);
        }
        let mut starts = Vec::new();
        for subject in &mut subjects {
            let mut times = Vec::new();
            for _ in 0..3 {
                subject.restart();
                let begun = std::time::Instant::now();
                subject.spawn();
                answered(&subject.url).await;
                times.push(begun.elapsed().as_secs_f64());
            }
            times.sort_by(f64::total_cmp);
            starts.push(times[1]);
        }
        let cells = [0, 1].map(|s| format!("{:.2} s", starts[s]));
        report.row("start with 100,000 objects until a read is answered", "< 1 s", cells, starts[0] / starts[1]);
        for (subject, at) in subjects.iter().zip(&mut at) {
            at.push(subject.resident());
        }
        let cells = [0, 1].map(|s| format!("{:.0} MB ({:.0} MB of it anonymous)", at[s][3].0, at[s][3].1));
        report.row("resident memory after that start", "-", cells, at[0][3].0 / at[1][3].0);
    }
    report.note(format!("etcd: {}", kedge_tests::command::quiet("etcd", &["--version"]).replace('\n', ", ")));
    report.note(format!("kedge: {}", options.kedge));
    report.print();
}

/// Waits for the first read.
async fn answered(url: &str) {
    loop {
        if let Ok(mut client) = Client::connect([url], None).await {
            if client.get("object/000001", None).await.is_ok() {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
