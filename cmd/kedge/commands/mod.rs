//! One file per subcommand.

pub mod check_config;
pub mod cni;
pub mod completion;
pub mod etcd;
pub mod etcd_snapshot;
pub mod killall;
pub mod server;
pub mod version;

use anyhow::Result;

use crate::cli::Cmd;

pub fn run(command: Cmd) -> Result<()> {
    match command {
        Cmd::Server(options) => server::run(*options),
        Cmd::Etcd(options) => etcd::run(&options),
        Cmd::CheckConfig(options) => check_config::run(&options),
        Cmd::Killall(options) => killall::run(&options),
        Cmd::EtcdSnapshot(options) => etcd_snapshot::run(&options),
        Cmd::Completion(options) => completion::run(&options),
        Cmd::Version(options) => version::run(&options),
    }
}
