//! `kedge completion bash|zsh|fish`.

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub struct Options {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(options: &Options) -> Result<()> {
    clap_complete::generate(options.shell, &mut crate::cli::Cli::command(), "kedge", &mut std::io::stdout());
    Ok(())
}
