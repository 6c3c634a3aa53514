//! Runs nft(8): one atomic batch per call.

use std::io;
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("nft is not installed: install the package nftables")]
    NotInstalled,
    #[error("nft: {0}")]
    Io(io::Error),
    /// nft's own words, with the line that it refused.
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// Applies `script` as one transaction: all or nothing.
///
/// # Errors
/// When nft is missing or refuses the script.
pub async fn apply(script: &str) -> Result<(), NftError> {
    run(&["-f", "-"], script).await.map(|_| ())
}

/// `nft <arguments>`, its standard output.
///
/// # Errors
/// As [`apply`].
pub async fn query(arguments: &[&str]) -> Result<String, NftError> {
    run(arguments, "").await
}

/// Whether nft is installed and the kernel answers it.
///
/// # Errors
/// As [`apply`].
pub async fn check() -> Result<(), NftError> {
    query(&["list", "tables"]).await.map(|_| ())
}

#[allow(clippy::disallowed_methods)] // `sys` is where processes are spawned.
async fn run(arguments: &[&str], input: &str) -> Result<String, NftError> {
    let mut command = tokio::process::Command::new("nft");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NftError::NotInstalled,
        _ => NftError::Io(error),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // nft may refuse before it has read everything; its exit status tells.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(NftError::Io)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(NftError::Refused(text.lines().take(4).collect::<Vec<_>>().join(" | ")))
}
