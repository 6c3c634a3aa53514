//! Builds what the binary carries: the static `pause` program (with rustc alone, see cmd/pause), and the version stamp.

use std::path::{Path, PathBuf};
// The build script is not part of the program: spawning is its job.
#[allow(clippy::disallowed_types)]
use std::process::Command;

fn main() {
    pause();
    let commit = output("git", &["rev-parse", "--short=8", "HEAD"]).unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=KEDGE_GIT_COMMIT={commit}");
    let date = output("git", &["log", "-1", "--format=%cd", "--date=format:%Y-%m-%dT%H:%M:%SZ"]);
    println!("cargo:rustc-env=KEDGE_BUILD_DATE={}", date.unwrap_or_else(|| "1970-01-01T00:00:00Z".into()));
    println!("cargo:rerun-if-changed=../../.git/HEAD");
}

#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
fn pause() {
    let source = Path::new("../pause");
    for file in ["main.rs", "http.rs", "resolve.rs", "signals.rs"] {
        println!("cargo:rerun-if-changed={}", source.join(file).display());
    }
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("pause");
    let target = std::env::var("TARGET").expect("cargo sets TARGET");
    let rustc = std::env::var("RUSTC").expect("cargo sets RUSTC");
    let mut command = Command::new(rustc);
    command.args(["--edition", "2024", "--crate-name", "pause", "--target", &target]);
    for option in
        ["opt-level=z", "panic=abort", "strip=symbols", "lto=fat", "codegen-units=1", "target-feature=+crt-static"]
    {
        command.args(["-C", option]);
    }
    if let Ok(linker) = std::env::var("RUSTC_LINKER") {
        command.arg("-C").arg(format!("linker={linker}"));
    }
    command.arg("-o").arg(&out).arg(source.join("main.rs"));
    let status = command.status().expect("rustc runs");
    assert!(status.success(), "building the pause program failed: {status}");
}

#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
