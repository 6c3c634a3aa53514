//! The real thing: the built kedge, real containerd, unmodified kubectl. One server for all scenarios, each in its own
//! namespace; those that stop or kill the server come last, alone.
//!
//! `scripts/test.sh e2e [--list] [--jobs N] [part of a name]...`
//!
//! Invariants:
//! - EE-1: scenarios do not know of each other: any one can be run alone.
//! - EE-2: all of them run, then every failure is reported with what kubectl and kedge say about it.

#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

mod access;
mod app;
mod bad_input;
mod bundle;
mod custom_resources;
mod datastore;
mod etcd;
mod network;
mod plane;
mod probes;
mod resources;
mod rollout;
mod scene;
mod startup;
mod streams;
mod survival;
mod volumes;
mod workloads;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kedge_tests::{cleanup, command, kubectl};
use scene::{Cluster, Scene};

/// A named, independent scenario.
pub struct Scenario {
    pub name: &'static str,
    pub run: Run,
}

pub enum Run {
    /// Starts what it needs itself; before the cluster, alone.
    Before(fn()),
    /// In its own namespace, beside others.
    Shared(fn(&Scene<'_>)),
    /// In its own namespace, alone, after the others: may stop and kill the server.
    Last(fn(&Scene<'_>)),
}

/// The one list of all scenarios.
fn scenarios() -> Vec<&'static Scenario> {
    [
        startup::SCENARIOS,
        datastore::SCENARIOS,
        etcd::SCENARIOS,
        custom_resources::SCENARIOS,
        bundle::SCENARIOS,
        app::SCENARIOS,
        network::SCENARIOS,
        workloads::SCENARIOS,
        rollout::SCENARIOS,
        probes::SCENARIOS,
        volumes::SCENARIOS,
        streams::SCENARIOS,
        resources::SCENARIOS,
        access::SCENARIOS,
        bad_input::SCENARIOS,
        survival::SCENARIOS,
    ]
    .into_iter()
    .flatten()
    .collect()
}

struct Outcome {
    name: &'static str,
    took: Duration,
    failure: Option<String>,
}

fn main() -> ExitCode {
    let mut jobs = 3;
    let mut wanted = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--list" => {
                scenarios().iter().for_each(|scenario| println!("{}", scenario.name));
                return ExitCode::SUCCESS;
            }
            "--jobs" => match args.next().and_then(|n| n.parse().ok()).filter(|n| (1..=16).contains(n)) {
                Some(n) => jobs = n,
                None => return refuse("--jobs wants 1 to 16"),
            },
            flag if flag.starts_with('-') => return refuse(&format!("unknown option {flag}")),
            _ => wanted.push(arg),
        }
    }
    let chosen: Vec<_> = scenarios()
        .into_iter()
        .filter(|scenario| wanted.is_empty() || wanted.iter().any(|part| scenario.name.contains(part.as_str())))
        .collect();
    if chosen.is_empty() {
        return refuse("no scenario has such a name: --list shows them");
    }
    if let Some(problem) = missing() {
        return refuse(&problem);
    }
    cleanup::sweep();
    if chosen.iter().any(|scenario| !matches!(scenario.run, Run::Before(_))) {
        if let Some(problem) = cleanup::occupied() {
            return refuse(&problem);
        }
        cleanup::network();
    }
    report(&all(&chosen, jobs))
}

fn refuse(message: &str) -> ExitCode {
    eprintln!("e2e: {message}");
    println!("0 passed, 1 failed");
    ExitCode::FAILURE
}

/// What this machine lacks, if anything.
fn missing() -> Option<String> {
    if command::quiet("id", &["-u"]).trim() != "0" {
        return Some("needs root: containers and networks are made".into());
    }
    let programs =
        ["containerd", "runc", "nft", "ip", "busybox", "curl", "script", "unshare", "setpriv", "python3", "openssl"];
    let lacking: Vec<&str> = programs.into_iter().filter(|program| command::find(program).is_none()).collect();
    if !lacking.is_empty() {
        return Some(format!("{} not installed: `scripts/test.sh` installs what is needed", lacking.join(", ")));
    }
    kubectl::current().is_none().then(|| "no kubectl: set KUBECTL, or let `scripts/test.sh` fetch it".into())
}

fn all(chosen: &[&'static Scenario], jobs: usize) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for scenario in chosen {
        if let Run::Before(run) = scenario.run {
            outcomes.push(one(scenario.name, run, &String::new));
        }
    }
    let shared: VecDeque<_> = chosen.iter().filter(|s| matches!(s.run, Run::Shared(_))).copied().collect();
    let last: Vec<_> = chosen.iter().filter(|s| matches!(s.run, Run::Last(_))).collect();
    if shared.is_empty() && last.is_empty() {
        return outcomes;
    }
    let mut cluster = None;
    let starting = one("cluster_starts_and_node_is_ready", || cluster = Some(Cluster::start()), &String::new);
    outcomes.push(starting);
    let Some(cluster) = cluster else {
        println!("{} scenarios not run: no cluster", shared.len() + last.len());
        return outcomes;
    };
    let queue = Mutex::new(shared);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no holder panics").pop_front();
                    let Some(scenario) = next else { return };
                    let outcome = on_cluster(&cluster, scenario);
                    done.lock().expect("no holder panics").push(outcome);
                }
            });
        }
    });
    outcomes.extend(done.into_inner().expect("no holder panics"));
    outcomes.extend(last.into_iter().map(|scenario| on_cluster(&cluster, scenario)));
    outcomes
}

fn on_cluster(cluster: &Cluster, scenario: &Scenario) -> Outcome {
    let (Run::Shared(run) | Run::Last(run)) = scenario.run else { unreachable!("chosen by its kind") };
    let scene = Scene::new(cluster, scenario.name);
    let outcome = one(
        scenario.name,
        || {
            scene.open();
            run(&scene);
        },
        &|| scene.explain(),
    );
    scene.close();
    outcome
}

thread_local! {
    static WHERE: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) };
}

/// Runs one scenario; a panic is its failure, explained by `explain`.
fn one(name: &'static str, run: impl FnOnce(), explain: &dyn Fn() -> String) -> Outcome {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|place| format!("{}:{}", place.file(), place.line())).unwrap_or_default();
        WHERE.with_borrow_mut(|slot| *slot = Some(place));
    }));
    let begun = Instant::now();
    let result = std::panic::catch_unwind(AssertUnwindSafe(run));
    let took = begun.elapsed();
    let failure = result.err().map(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        let place = WHERE.take().unwrap_or_default();
        let explained = std::panic::catch_unwind(AssertUnwindSafe(explain)).unwrap_or_default();
        format!("{place}: {text}\n{explained}")
    });
    println!("{} {name} ({:.1} s)", if failure.is_some() { "FAIL" } else { "ok  " }, took.as_secs_f32());
    if let Some(first) = failure.as_ref().and_then(|failure| failure.lines().next()) {
        println!("     {}", first.chars().take(300).collect::<String>());
    }
    Outcome { name, took, failure }
}

fn report(outcomes: &[Outcome]) -> ExitCode {
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.failure.is_some()).collect();
    for outcome in &failed {
        println!("\n==== {} ({:.1} s)", outcome.name, outcome.took.as_secs_f32());
        println!("{}", outcome.failure.as_deref().unwrap_or_default());
    }
    println!("{} passed, {} failed", outcomes.len() - failed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
