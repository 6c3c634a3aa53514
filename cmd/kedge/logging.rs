//! Log lines on standard error.

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogOptions};

/// Installs the subscriber. `RUST_LOG` refines what is logged.
pub fn init(options: &LogOptions) {
    init_at(options, "info");
}

/// The same, for a command that logs from `level` on.
pub fn init_at(options: &LogOptions, level: &str) {
    let level = if options.debug { "debug" } else { level };
    // Libraries speak only when something is wrong.
    let default = format!(
        "{level},hyper=warn,h2=warn,tower=warn,rustls=warn,kube_client=warn,hickory=warn,netlink=warn,rtnetlink=warn"
    );
    let filter = std::env::var_os("RUST_LOG").and_then(|text| EnvFilter::try_new(text.to_string_lossy()).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(default));
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    let lines = lines.with_target(false);
    match options.log_format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}
