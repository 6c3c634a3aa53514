//! The one program of kedge's own image: it holds a pod's namespaces and reaps orphans (`pause`), or answers HTTP
//! (`pause serve`), so that neither a sandbox nor a first workload needs a registry.
//!
//! Standard library only: `cmd/kedge/build.rs` compiles this file with rustc, static, and embeds it.
//!
//! Invariants:
//! - PS-1: as pid 1 it reaps every orphan and ends at once on SIGTERM or SIGINT.
//! - PS-2: `serve` finishes the requests it has accepted before it ends.

mod http;
mod resolve;
mod signals;

use std::process::ExitCode;

const USAGE: &str = "usage: pause                hold the sandbox and reap orphans
       pause serve [--port N] [--text T] [--ready-after SECONDS]
                            answer HTTP: / hostname and text, /healthz, /readyz, /headers, /env, /file?path=P,
                            /fetch?url=U (what U answers, from here), /sleep?ms=N, /exit?code=N, /stress?mib=N
       pause sleep SECONDS  (preStop hooks in an image without a shell)
       pause get URL        print what URL answers; exit 1 unless 2xx";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => {
            signals::reap_until_stopped();
            ExitCode::SUCCESS
        }
        ["serve", options @ ..] => match http::Options::parse(options) {
            Ok(options) => http::serve(options),
            Err(message) => usage(&message),
        },
        ["sleep", seconds] => match seconds.parse::<f64>() {
            Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => {
                std::thread::sleep(std::time::Duration::from_secs_f64(seconds));
                ExitCode::SUCCESS
            }
            _ => usage(&format!("sleep {seconds:?}: want seconds, 0 to 86400")),
        },
        ["get", url] => match http::fetch(url) {
            Ok((status, body)) => {
                println!("{}", body.trim_end());
                if (200..300).contains(&status) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(message) => {
                eprintln!("{url}: {message}");
                ExitCode::FAILURE
            }
        },
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        other => usage(&format!("unknown command {:?}", other.join(" "))),
    }
}

fn usage(message: &str) -> ExitCode {
    eprintln!("pause: {message}\n{USAGE}");
    ExitCode::from(2)
}
