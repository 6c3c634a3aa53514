//! Who we say we are.

/// The Kubernetes version that we are, with our own build behind it.
pub const GIT_VERSION: &str = "v1.36.2+kedge1";
pub const MAJOR: &str = "1";
pub const MINOR: &str = "36";
pub const GIT_COMMIT: &str = env!("KEDGE_GIT_COMMIT");
pub const BUILD_DATE: &str = env!("KEDGE_BUILD_DATE");
pub const LONG: &str =
    concat!("v1.36.2+kedge1 (kedge ", env!("CARGO_PKG_VERSION"), ", ", env!("KEDGE_GIT_COMMIT"), ")");

pub fn platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{arch}", std::env::consts::OS)
}
