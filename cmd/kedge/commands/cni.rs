//! `kedge` as a CNI plugin (see `network::cni`): environment and standard input in, standard output out.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use network::cni::{self, CniEnvironment};

pub fn run() -> ExitCode {
    let get = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
    let environment = CniEnvironment {
        command: get("CNI_COMMAND"),
        container_id: get("CNI_CONTAINERID"),
        namespace: std::env::var_os("CNI_NETNS").filter(|path| !path.is_empty()).map(Into::into),
        interface: get("CNI_IFNAME"),
    };
    let mut stdin = Vec::new();
    // A configuration that cannot be read is refused as one that cannot be parsed.
    let _ = std::io::stdin().read_to_end(&mut stdin);
    let outcome = cni::run(&environment, &stdin);
    let written = std::io::stdout().write_all(outcome.stdout.as_bytes());
    if outcome.success && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
