//! kedge's own image, put together from the embedded program: an OCI archive that containerd imports, so that no
//! sandbox and no first workload needs a registry.

use std::io::Write as _;

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// How pods and the sandbox name it.
pub const REFERENCE: &str = "docker.io/kedge/pause:1";

static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// The OCI archive (tar). The same input always gives the same bytes.
pub fn archive() -> Result<Vec<u8>> {
    let layer = tar(&[("pause", PROGRAM, 0o755)])?;
    let config = encode(&json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Entrypoint": ["/pause"], "WorkingDir": "/", "Env": ["PATH=/"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    }));
    let manifest = encode(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }));
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({ "io.containerd.image.name": REFERENCE, "org.opencontainers.image.ref.name": "1" });
    entry["platform"] = json!({ "architecture": architecture(), "os": "linux" });
    let index = encode(&json!({ "schemaVersion": 2, "manifests": [entry] }));
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hex(&Sha256::digest(bytes)));
    tar(&[
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644),
        ("index.json", &index, 0o644),
        (&blob(&manifest), &manifest, 0o644),
        (&blob(&config), &config, 0o644),
        (&blob(&layer), &layer, 0o644),
    ])
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn encode(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tar(files: &[(&str, &[u8], u32)]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(0);
        builder.append_data(&mut header, path, *bytes)?;
    }
    let mut bytes = builder.into_inner()?;
    bytes.flush()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_same_every_time_and_names_itself() {
        let archive = super::archive().expect("builds");
        assert_eq!(archive, super::archive().expect("builds"));
        assert!(String::from_utf8_lossy(&archive).contains(REFERENCE));
    }
}
