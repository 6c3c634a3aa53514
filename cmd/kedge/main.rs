//! kedge: a complete Kubernetes in one binary. This file only finds out which of its programs it is to be.
//!
//! Invariants:
//! - KE-1: only this crate reads argv and the environment, and only this file exits.

mod cli;
mod commands;
mod config;
mod logging;
mod pause_image;
mod server;
mod snapshots;
mod version;

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // containerd runs us as its CNI plugin: nothing else sets this variable.
    if std::env::var_os("CNI_COMMAND").is_some() {
        return commands::cni::run();
    }
    let environment = |name: &str| std::env::var_os(name);
    let argv = match config::file::merge(&cli::Cli::command(), std::env::args_os().collect(), &environment) {
        Ok(argv) => argv,
        Err(error) => return refuse(&format!("{error:#}")),
    };
    match cli::Cli::try_parse_from(argv) {
        Ok(cli) => match commands::run(cli.command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse(&format!("{error:#}")),
        },
        Err(error) if !error.use_stderr() => {
            // --help and --version come this way too.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::FAILURE
        }
        Err(error) => refuse(&one_line(&error)),
    }
}

#[allow(clippy::print_stderr)] // The last word of a program that has no log yet.
fn refuse(message: &str) -> ExitCode {
    eprintln!("kedge: {message}");
    ExitCode::FAILURE
}

/// clap's first paragraph, as one line: what, which value, what is allowed.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines =
        text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let words: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    words.join(" ").trim_start_matches("error: ").to_owned()
}
