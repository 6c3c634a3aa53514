//! OCI archives made of the machine's busybox.

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// An archive with one image called `name` whose entry point is `entrypoint`.
pub fn busybox(name: &str, entrypoint: &[&str]) -> Bytes {
    let program = std::fs::read("/bin/busybox").expect("busybox is installed");
    let mut layer = tar::Builder::new(Vec::new());
    for dir in ["bin/", "tmp/", "etc/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        layer.append_data(&mut header, dir, &[][..]).expect("appends");
    }
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    layer.append_data(&mut header, "bin/busybox", program.as_slice()).expect("appends");
    for tool in ["sh", "cat", "sleep", "echo", "id", "env", "ls", "test", "wget", "hostname", "dd"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{tool}"), "busybox").expect("appends");
    }
    let layer = layer.into_inner().expect("a layer");
    let digest = |data: &[u8]| hex::encode(Sha256::digest(data));
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]}})
    .to_string()
    .into_bytes();
    let descriptor = |kind: &str, data: &[u8]| {
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{}", digest(data)), "size": data.len()})
    };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config), "layers": [descriptor("layer.v1.tar", &layer)]})
    .to_string()
    .into_bytes();
    let mut entry = descriptor("manifest.v1+json", &manifest);
    entry["annotations"] = json!({"io.containerd.image.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string().into_bytes();
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: String, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        archive.append_data(&mut header, path, data).expect("appends");
    };
    add("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#);
    add("index.json".into(), &index);
    for blob in [&layer, &config, &manifest] {
        add(format!("blobs/sha256/{}", digest(blob)), blob);
    }
    archive.into_inner().expect("an archive").into()
}
