//! Test images made from this machine's own programs, so that no test needs a registry: `busybox:test` with a shell,
//! curl, and a page that says `v1`, and `busybox:test2`, the same with `v2`.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::command;

/// References as kubectl users write them: containerd reads them as docker.io/library/…
pub const SHELL: &str = "busybox:test";
pub const SHELL_2: &str = "busybox:test2";

const LIMIT: Duration = Duration::from_secs(60);

/// Writes an OCI archive of both images to `target`, working in `work`.
pub fn write_archive(work: &Path, target: &Path) {
    let root = work.join("rootfs");
    fill(&root);
    let base = tar(&root, &work.join("base.tar"));
    let layout = work.join("layout");
    std::fs::create_dir_all(layout.join("blobs/sha256")).expect("the work folder can be written");
    let mut manifests = Vec::new();
    for (tag, text) in [("test", "v1\n"), ("test2", "v2\n")] {
        let www = work.join(tag);
        std::fs::create_dir_all(www.join("www")).expect("the work folder can be written");
        std::fs::write(www.join("www/index.html"), text).expect("the work folder can be written");
        let page = tar(&www, &work.join(format!("{tag}.tar")));
        manifests.push(manifest(&layout, tag, &[&base, &page]));
    }
    write_json(&layout.join("index.json"), &json!({ "schemaVersion": 2, "manifests": manifests }));
    write_json(&layout.join("oci-layout"), &json!({ "imageLayoutVersion": "1.0.0" }));
    tar(&layout, target);
}

/// A small userland: busybox with all its names, curl with its libraries.
fn fill(root: &Path) {
    for folder in ["bin", "etc", "tmp", "root", "www", "var", "proc", "sys", "dev"] {
        std::fs::create_dir_all(root.join(folder)).expect("the work folder can be written");
    }
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777)).expect("our own folder");
    let files = [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ("etc/nsswitch.conf", "hosts: files dns\n"),
    ];
    for (name, text) in files {
        std::fs::write(root.join(name), text).expect("the work folder can be written");
    }
    let busybox = command::find("busybox").expect("busybox is installed (scripts/test.sh installs busybox-static)");
    install(root, &busybox, "bin/busybox");
    for applet in command::quiet("busybox", &["--list"]).lines().filter(|name| *name != "busybox") {
        let _ = symlink("busybox", root.join("bin").join(applet));
    }
    let curl = command::find("curl").expect("curl is installed");
    install(root, &curl, "bin/curl");
}

/// Copies a program, and the libraries it wants to where it wants them.
fn install(root: &Path, program: &Path, name: &str) {
    std::fs::copy(program, root.join(name)).expect("a program can be copied");
    let program = program.display().to_string();
    for word in command::quiet("ldd", &[program]).split_whitespace().filter(|word| word.starts_with('/')) {
        let library = PathBuf::from(word);
        let to = root.join(word.trim_start_matches('/'));
        if library.is_file() && !to.exists() {
            std::fs::create_dir_all(to.parent().expect("a library is in a folder")).expect("the folder can be written");
            std::fs::copy(&library, &to).expect("a library can be copied");
        }
    }
}

fn tar(folder: &Path, target: &Path) -> PathBuf {
    let mut command = Command::new("tar");
    command.arg("-C").arg(folder).args(["--owner=0", "--group=0", "--numeric-owner", "-cf"]).arg(target).arg(".");
    command::run(&mut command, None, LIMIT).ok();
    target.to_owned()
}

fn manifest(layout: &Path, tag: &str, layers: &[&Path]) -> Value {
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let layers: Vec<Value> = layers.iter().map(|path| blob(layout, path, layer)).collect();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = layout.with_extension("config");
    write_json(
        &config,
        &json!({
            "architecture": architecture,
            "os": "linux",
            "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|l| l["digest"].clone()).collect::<Vec<_>>() },
        }),
    );
    let manifest = layout.with_extension("manifest");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    write_json(
        &manifest,
        &json!({
            "schemaVersion": 2,
            "mediaType": kind,
            "config": blob(layout, &config, "application/vnd.oci.image.config.v1+json"),
            "layers": layers,
        }),
    );
    let mut entry = blob(layout, &manifest, kind);
    entry["annotations"] = json!({
        "io.containerd.image.name": format!("docker.io/library/busybox:{tag}"),
        "org.opencontainers.image.ref.name": tag,
    });
    entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
    entry
}

/// Copies a file into the layout under its digest.
fn blob(layout: &Path, path: &Path, media_type: &str) -> Value {
    let sum = command::run(Command::new("sha256sum").arg(path), None, LIMIT).ok();
    let digest = sum.split_whitespace().next().unwrap_or_default().to_owned();
    let size = std::fs::copy(path, layout.join("blobs/sha256").join(&digest)).expect("a blob can be copied");
    json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size })
}

fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).expect("the work folder can be written");
}
