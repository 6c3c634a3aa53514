//! The volumes of a pod: made, kept up to date, torn down.
//!
//! Invariants:
//! - VO-1: setting up is idempotent: it is done at every sync, and writes only what changed.
//! - VO-2: secrets and tokens are in memory (tmpfs), never on a disk.
//! - VO-3: tearing down never follows a mount: what is mounted is unmounted first.

pub mod atomic;
pub mod payload;
pub mod subpath;
pub mod token;

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use component_base::SharedClock;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, ProjectedVolumeSource,
    Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{Api, Client};

use crate::containers::{self, text};
use crate::error::{Error, Result};
use crate::objects::Objects;
use crate::quantity;
use atomic::{File, Payload};
use payload::DEFAULT_MODE;

/// Volumes of all pods.
#[derive(Clone)]
pub struct Volumes {
    client: Client,
    objects: Objects,
    tokens: token::Tokens,
    clock: SharedClock,
}

/// A pod's mounted volumes.
#[derive(Debug, Clone, Default)]
pub struct Mounted {
    /// Where each is on the host.
    pub paths: BTreeMap<String, PathBuf>,
    /// When they must be looked at again (tokens expire).
    pub refresh_at: Option<Timestamp>,
}

/// One that could not be set up; the text is that of the event `FailedMount`.
#[derive(Debug)]
pub struct Failure {
    pub volume: String,
    pub message: String,
}

impl Volumes {
    pub fn new(client: Client, objects: Objects, clock: SharedClock) -> Self {
        Self { tokens: token::Tokens::new(client.clone(), clock.clone()), client, objects, clock }
    }

    /// Sets up every volume of `pod` below `dir`.
    ///
    /// # Errors
    /// The volumes that could not be set up.
    pub async fn set_up(
        &self,
        pod: &Pod,
        dir: &Path,
        allocatable: &BTreeMap<String, Quantity>,
    ) -> Result<Mounted, Vec<Failure>> {
        let volumes = pod.spec.as_ref().and_then(|s| s.volumes.clone()).unwrap_or_default();
        let results = join_all(volumes.iter().map(|volume| self.one(pod, volume, dir, allocatable))).await;
        let mut mounted = Mounted::default();
        let mut failures = Vec::new();
        for (volume, result) in volumes.iter().zip(results) {
            match result {
                Ok((path, refresh_at)) => {
                    mounted.paths.insert(volume.name.clone(), path);
                    mounted.refresh_at = [mounted.refresh_at, refresh_at].into_iter().flatten().min();
                }
                Err(error) => failures.push(Failure {
                    volume: volume.name.clone(),
                    message: format!("MountVolume.SetUp failed for volume {:?} : {error}", volume.name),
                }),
            }
        }
        if failures.is_empty() { Ok(mounted) } else { Err(failures) }
    }

    async fn one(
        &self,
        pod: &Pod,
        volume: &Volume,
        dir: &Path,
        allocatable: &BTreeMap<String, Quantity>,
    ) -> Result<(PathBuf, Option<Timestamp>)> {
        let place = |plugin: &str| dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(&volume.name);
        let namespace = text(&pod.metadata.namespace);
        if let Some(source) = &volume.empty_dir {
            let path = place("empty-dir");
            empty_dir(&path, source, fs_group(pod))?;
            return Ok((path, None));
        }
        if let Some(source) = &volume.host_path {
            host_path(source)?;
            return Ok((PathBuf::from(&source.path), None));
        }
        if let Some(source) = &volume.config_map {
            let optional = source.optional == Some(true);
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let payload = self.config_map(namespace, &source.name, source.items.as_ref(), mode, optional).await?;
            return self.write(pod, &place("configmap"), payload, false).map(|path| (path, None));
        }
        if let Some(source) = &volume.secret {
            let optional = source.optional == Some(true);
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let name = text(&source.secret_name);
            let payload = self.secret(namespace, name, source.items.as_ref(), mode, optional).await?;
            return self.write(pod, &place("secret"), payload, true).map(|path| (path, None));
        }
        if let Some(source) = &volume.downward_api {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let payload = payload::of_downward(pod, source.items.as_ref(), mode, allocatable).map_err(Error::Pod)?;
            return self.write(pod, &place("downward-api"), payload, true).map(|path| (path, None));
        }
        if let Some(source) = &volume.projected {
            let (payload, refresh_at) = self.projected(pod, source, allocatable).await?;
            return self.write(pod, &place("projected"), payload, true).map(|path| (path, refresh_at));
        }
        if let Some(source) = &volume.persistent_volume_claim {
            return self.claim(namespace, &source.claim_name).await.map(|path| (path, None));
        }
        if volume.ephemeral.is_some() {
            let name = format!("{}-{}", text(&pod.metadata.name), volume.name);
            return self.claim(namespace, &name).await.map(|path| (path, None));
        }
        Err(Error::pod(format!("no volume plugin matched name: {}", volume.name)))
    }

    async fn config_map(
        &self,
        namespace: &str,
        name: &str,
        items: Option<&Vec<k8s_openapi::api::core::v1::KeyToPath>>,
        mode: i32,
        optional: bool,
    ) -> Result<Payload> {
        match self.objects.config_map(namespace, name).await? {
            Some(map) => payload::of_config_map(&map, items, mode, optional).map_err(Error::Pod),
            None if optional => Ok(Payload::new()),
            None => Err(Error::pod(format!("configmap {name:?} not found"))),
        }
    }

    async fn secret(
        &self,
        namespace: &str,
        name: &str,
        items: Option<&Vec<k8s_openapi::api::core::v1::KeyToPath>>,
        mode: i32,
        optional: bool,
    ) -> Result<Payload> {
        match self.objects.secret(namespace, name).await? {
            Some(secret) => payload::of_secret(&secret, items, mode, optional).map_err(Error::Pod),
            None if optional => Ok(Payload::new()),
            None => Err(Error::pod(format!("secret {name:?} not found"))),
        }
    }

    async fn projected(
        &self,
        pod: &Pod,
        source: &ProjectedVolumeSource,
        allocatable: &BTreeMap<String, Quantity>,
    ) -> Result<(Payload, Option<Timestamp>)> {
        let namespace = text(&pod.metadata.namespace);
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let mut out = Payload::new();
        let mut refresh_at = None;
        for part in source.sources.iter().flatten() {
            if let Some(map) = &part.config_map {
                let optional = map.optional == Some(true);
                out.extend(self.config_map(namespace, &map.name, map.items.as_ref(), mode, optional).await?);
            }
            if let Some(secret) = &part.secret {
                let optional = secret.optional == Some(true);
                out.extend(self.secret(namespace, &secret.name, secret.items.as_ref(), mode, optional).await?);
            }
            if let Some(downward) = &part.downward_api {
                let files = payload::of_downward(pod, downward.items.as_ref(), mode, allocatable);
                out.extend(files.map_err(Error::Pod)?);
            }
            if let Some(token) = &part.service_account_token {
                let (text, renew_at) = self.tokens.get(pod, token).await?;
                refresh_at = [refresh_at, Some(renew_at)].into_iter().flatten().min();
                let uid = common_user(pod);
                let private = uid.is_some() || fs_group(pod).is_some();
                let mode = if private { 0o600 } else { u32::try_from(mode).unwrap_or(0o644) };
                out.insert(token.path.clone(), File { data: text.into_bytes(), mode, uid });
            }
            if part.cluster_trust_bundle.is_some() || part.pod_certificate.is_some() {
                return Err(Error::pod("ClusterTrustBundle and PodCertificate projections are not supported"));
            }
        }
        Ok((out, refresh_at))
    }

    fn write(&self, pod: &Pod, path: &Path, payload: Payload, in_memory: bool) -> Result<PathBuf> {
        make_dir(path, 0o777)?;
        if in_memory && !sys::mount::is_mount_point(path).map_err(Error::io("examining", path))? {
            sys::mount::tmpfs(path, None).map_err(Error::io("mounting tmpfs at", path))?;
        }
        atomic::write(path, &payload, fs_group(pod), self.clock.now()).map_err(Error::io("writing", path))?;
        give_to(path, fs_group(pod), 0o2550)?;
        Ok(path.to_owned())
    }

    /// A claim bound to a volume that is a directory of this node.
    async fn claim(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let claim = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace)
            .get(name)
            .await
            .map_err(Error::api(format!("persistentvolumeclaim {name:?}")))?;
        let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let volume = claim.spec.and_then(|s| s.volume_name).filter(|v| bound && !v.is_empty());
        let Some(volume) = volume else { return Err(Error::pod(format!("persistentvolumeclaim {name:?} not bound"))) };
        let volume = Api::<PersistentVolume>::all(self.client.clone())
            .get(&volume)
            .await
            .map_err(Error::api(format!("persistentvolume {volume:?}")))?;
        let spec = volume.spec.unwrap_or_default();
        if let Some(source) = &spec.host_path {
            host_path(source)?;
            return Ok(PathBuf::from(&source.path));
        }
        if let Some(source) = &spec.local {
            let path = PathBuf::from(&source.path);
            return if path.exists() {
                Ok(path)
            } else {
                Err(Error::pod(format!("path {:?} does not exist", source.path)))
            };
        }
        Err(Error::pod("no volume plugin matched: only hostPath and local volumes can be mounted on this node"))
    }

    /// Unmounts and removes the volumes of a pod whose containers are gone. What its containers left (termination
    /// messages) stays until [`remove_pod_dir`].
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn tear_down(&self, uid: &str, dir: &Path) -> Result<()> {
        self.tokens.forget(uid);
        // Parts of volumes are mounts of the volumes: they go first.
        remove_pod_dir(&dir.join("volume-subpaths"))?;
        remove_pod_dir(&dir.join("volumes"))
    }
}

/// Unmounts what is below `dir` and removes it.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_pod_dir(dir: &Path) -> Result<()> {
    for mounted in sys::mount::mounts_under(dir).map_err(Error::io("examining", dir))? {
        sys::mount::unmount(&mounted).map_err(Error::io("unmounting", &mounted))?;
    }
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("removing", dir)(error)),
        _ => Ok(()),
    }
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// The user of all containers, when they agree on one.
fn common_user(pod: &Pod) -> Option<u32> {
    let pod_level = pod.spec.as_ref()?.security_context.as_ref().and_then(|c| c.run_as_user);
    let mut users =
        containers::all(pod).into_iter().map(|c| c.security_context.and_then(|s| s.run_as_user).or(pod_level));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    if !path.is_dir() {
        std::fs::create_dir_all(path).map_err(Error::io("creating", path))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .map_err(Error::io("setting the mode of", path))?;
    }
    Ok(())
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, group: Option<u32>) -> Result<()> {
    let fresh = !path.is_dir();
    make_dir(path, 0o777)?;
    if source.medium.as_deref() == Some("Memory")
        && !sys::mount::is_mount_point(path).map_err(Error::io("examining", path))?
    {
        let size = source.size_limit.as_ref().and_then(|q| quantity::value(&q.0)).and_then(|v| u64::try_from(v).ok());
        sys::mount::tmpfs(path, size).map_err(Error::io("mounting tmpfs at", path))?;
    }
    give_to(path, group.filter(|_| fresh), 0o2770)
}

/// Gives the root of a volume to the pod's group (`fsGroup`), adding `mode` to what everybody may do.
fn give_to(path: &Path, group: Option<u32>, mode: u32) -> Result<()> {
    let Some(group) = group else { return Ok(()) };
    let meta = std::fs::metadata(path).map_err(Error::io("examining", path))?;
    if meta.gid() == group && meta.mode() & mode == mode {
        return Ok(());
    }
    chown(path, None, Some(group)).map_err(Error::io("changing the group of", path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(meta.mode() & 0o7777 | mode))
        .map_err(Error::io("setting the mode of", path))
}

/// Checks (or makes) what a hostPath volume names.
fn host_path(source: &HostPathVolumeSource) -> Result<()> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let meta = std::fs::metadata(path);
    match kind {
        "DirectoryOrCreate" if meta.is_err() => return make_dir(path, 0o755),
        "FileOrCreate" if meta.is_err() => {
            std::fs::write(path, "").map_err(Error::io("creating", path))?;
            return std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
                .map_err(Error::io("setting the mode of", path));
        }
        _ => {}
    }
    let is = |what: &str, test: &dyn Fn(&std::fs::Metadata) -> bool| match &meta {
        Ok(meta) if test(meta) => Ok(()),
        _ => Err(Error::pod(format!("hostPath type check failed: {} is not a {what}", source.path))),
    };
    match kind {
        "Directory" | "DirectoryOrCreate" => is("directory", &|m| m.is_dir()),
        "File" | "FileOrCreate" => is("file", &|m| m.is_file()),
        "Socket" => is("socket file", &|m| m.file_type().is_socket()),
        "CharDevice" => is("character device", &|m| m.file_type().is_char_device()),
        "BlockDevice" => is("block device", &|m| m.file_type().is_block_device()),
        // Upstream leaves a missing path to the runtime, which makes a directory.
        _ if meta.is_err() => make_dir(path, 0o755),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_paths_are_checked() {
        let dir = tempfile::tempdir().expect("tempdir");
        let check = |name: &str, kind: &str| {
            let path = dir.path().join(name).display().to_string();
            host_path(&HostPathVolumeSource { path, type_: Some(kind.into()) })
        };
        assert!(check("f", "File").is_err());
        check("f", "FileOrCreate").expect("made");
        check("f", "File").expect("there");
        check("d", "DirectoryOrCreate").expect("made");
        let error = check("d", "Socket").expect_err("refused").to_string();
        assert!(error.starts_with("hostPath type check failed: ") && error.ends_with("is not a socket file"));
    }

    #[test]
    fn empty_dirs_in_memory_are_torn_down() {
        if !sys::capability::is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("pod/volumes/v");
        let source = EmptyDirVolumeSource { medium: Some("Memory".into()), size_limit: Some(Quantity("1Mi".into())) };
        empty_dir(&path, &source, Some(5)).expect("made");
        let mounted = sys::mount::is_mount_point(&path);
        remove_pod_dir(&dir.path().join("pod")).expect("removed");
        assert!(mounted.expect("examined"));
        assert!(!path.exists());
    }
}
