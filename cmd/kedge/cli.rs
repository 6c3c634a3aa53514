//! The command line: one enum lists the subcommands; each is a file in `commands/`.

use clap::{Parser, Subcommand};

use crate::commands::{check_config, completion, etcd, etcd_snapshot, killall, version};
use crate::config::ServerOptions;

/// A complete Kubernetes in one binary.
#[derive(Debug, Parser)]
#[command(name = "kedge", version = version::LONG, arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Cmd,
}

#[derive(Debug, Subcommand)]
pub enum Cmd {
    /// Run a whole cluster on this machine
    Server(Box<ServerOptions>),
    /// Run the store alone, as an etcd of one member
    Etcd(Box<etcd::Options>),
    /// Check that this machine can run kedge, and say what is missing
    CheckConfig(check_config::Options),
    /// Stop every pod and kedge's containerd, and remove their network (data stays)
    Killall(killall::Options),
    /// Save the state of the cluster, list what was saved, and restore it
    EtcdSnapshot(etcd_snapshot::Options),
    /// Print a shell completion script
    Completion(completion::Options),
    /// Print the version
    Version(version::Options),
}
