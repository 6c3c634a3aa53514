//! `kedge version`.

use std::io::Write as _;

use anyhow::Result;
use clap::Args;

pub use crate::version::LONG;

#[derive(Debug, Args)]
pub struct Options {}

pub fn run(_: &Options) -> Result<()> {
    writeln!(std::io::stdout(), "kedge {LONG} {}", crate::version::platform())?;
    Ok(())
}
