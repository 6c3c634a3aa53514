//! OCI (and `docker save`) archives into containerd's content and image stores, for nodes without a registry.
//!
//! Invariants:
//! - IM-1: an image's name appears only after everything it refers to is in the store, labelled against collection.

use std::collections::HashMap;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use component_base::SharedClock;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    CreateImageRequest, CreateRequest, DeleteRequest, Image, UpdateImageRequest, WriteAction, WriteContentRequest,
};
use containerd_client::types::Descriptor;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tonic::metadata::MetadataValue;

use super::events::NAMESPACE;
use crate::cri::Cri;
use crate::error::{Error, Result};

const CHUNK: usize = 1 << 20;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Where the bytes are.
#[derive(Debug, Clone)]
pub enum Archive {
    File(PathBuf),
    Memory(Bytes),
}

trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

impl Archive {
    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Memory(_) => "(built in)".into(),
        }
    }

    fn open(&self) -> std::io::Result<Box<dyn ReadSeek>> {
        Ok(match self {
            Self::Memory(bytes) => Box::new(Cursor::new(bytes.clone())),
            Self::File(path) => {
                let mut file = std::fs::File::open(path)?;
                let mut magic = [0; 2];
                let compressed = file.read(&mut magic)? == 2 && magic == [0x1f, 0x8b];
                file.seek(SeekFrom::Start(0))?;
                if compressed {
                    let mut all = Vec::new();
                    flate2::read::MultiGzDecoder::new(file).read_to_end(&mut all)?;
                    Box::new(Cursor::new(all))
                } else {
                    Box::new(file)
                }
            }
        })
    }
}

/// `*.tar`, `*.tar.gz`, `*.tgz`.
pub fn is_archive(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    [".tar", ".tar.gz", ".tgz"].iter().any(|suffix| name.ends_with(suffix)) && path.is_file()
}

/// The file that says this very archive was imported (by size and time of change).
pub fn mark_of(path: &Path, dir: &Path) -> Option<PathBuf> {
    let meta = std::fs::metadata(path).ok()?;
    let changed = meta.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos();
    Some(dir.join(format!("{}-{}-{changed}", path.file_name()?.to_string_lossy(), meta.len())))
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OciDescriptor {
    #[serde(skip_serializing_if = "String::is_empty")]
    media_type: String,
    digest: String,
    size: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: HashMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Index {
    manifests: Vec<OciDescriptor>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Manifest {
    schema_version: u32,
    media_type: String,
    config: OciDescriptor,
    layers: Vec<OciDescriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Something to put into the content store.
struct Blob {
    descriptor: OciDescriptor,
    content: Content,
    labels: HashMap<String, String>,
}

enum Content {
    /// Offset in the archive.
    At(u64),
    Bytes(Bytes),
}

/// What an archive holds: blobs in the order in which they may be written, and names.
struct Plan {
    blobs: Vec<Blob>,
    images: Vec<(String, OciDescriptor)>,
}

/// Imports every image of `archive`; one without a name becomes `default_name`. Gives the names.
///
/// # Errors
/// When the archive is not one, or containerd refuses.
pub async fn import(cri: &Cri, clock: &SharedClock, archive: Archive, default_name: &str) -> Result<Vec<String>> {
    let bad = |message: String| Error::Archive { archive: archive.name(), message };
    let (reader, plan) = {
        let (archive, default_name) = (archive.clone(), default_name.to_owned());
        tokio::task::spawn_blocking(move || -> std::io::Result<_> {
            let mut reader = archive.open()?;
            let plan = plan(reader.as_mut(), &default_name)?;
            Ok((reader, plan))
        })
        .await
        .map_err(|error| bad(error.to_string()))?
        .map_err(|error| bad(error.to_string()))?
    };
    if plan.images.is_empty() {
        return Err(bad("holds no named image".into()));
    }
    let lease = format!("kedge-import-{}", uuid::Uuid::new_v4());
    let create = CreateRequest {
        id: lease.clone(),
        labels: HashMap::from([("containerd.io/gc.expire".to_owned(), "2100-01-01T00:00:00Z".to_owned())]),
    };
    LeasesClient::new(cri.channel()).create(namespaced(create, "")?).await?;
    let result = store(cri, clock, &lease, reader, plan).await;
    // The lease only protects the import; what it leaves behind is collected in time.
    let _ = LeasesClient::new(cri.channel()).delete(namespaced(DeleteRequest { id: lease, sync: false }, "")?).await;
    result
}

async fn store(
    cri: &Cri,
    clock: &SharedClock,
    lease: &str,
    mut reader: Box<dyn ReadSeek>,
    plan: Plan,
) -> Result<Vec<String>> {
    for blob in plan.blobs {
        reader = write_blob(cri, lease, reader, blob).await?;
    }
    let mut names = Vec::new();
    for (name, target) in plan.images {
        let image = Image {
            name: name.clone(),
            labels: HashMap::from([("io.cri-containerd.image".to_owned(), "managed".to_owned())]),
            target: Some(Descriptor {
                media_type: target.media_type,
                digest: target.digest,
                size: target.size,
                ..Descriptor::default()
            }),
            ..Image::default()
        };
        let mut images = ImagesClient::new(cri.channel());
        let create = CreateImageRequest { image: Some(image.clone()), ..Default::default() };
        match images.create(namespaced(create, lease)?).await {
            Err(status) if status.code() == tonic::Code::AlreadyExists => {
                let update = UpdateImageRequest { image: Some(image), ..Default::default() };
                images.update(namespaced(update, lease)?).await?;
            }
            other => drop(other?),
        }
        until_known(cri, clock, &name).await?;
        names.push(name);
    }
    Ok(names)
}

/// CRI hears of new images by containerd's events; callers want to use the image at once.
async fn until_known(cri: &Cri, clock: &SharedClock, name: &str) -> Result<()> {
    let mut wait = Duration::from_millis(2);
    while wait < Duration::from_secs(5) {
        if cri.image_status(name).await?.is_some() {
            return Ok(());
        }
        clock.sleep(wait).await;
        wait *= 2;
    }
    Err(Error::Containerd(format!("image {name} was imported but CRI does not see it")))
}

fn namespaced<T>(message: T, lease: &str) -> Result<tonic::Request<T>> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    if !lease.is_empty() {
        let value = MetadataValue::try_from(lease).map_err(|error| Error::Containerd(error.to_string()))?;
        request.metadata_mut().insert("containerd-lease", value);
    }
    Ok(request)
}

async fn write_blob(cri: &Cri, lease: &str, reader: Box<dyn ReadSeek>, blob: Blob) -> Result<Box<dyn ReadSeek>> {
    let (sender, receiver) = tokio::sync::mpsc::channel::<WriteContentRequest>(4);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let Blob { descriptor, content, labels } = blob;
    let reference = format!("kedge-import-{}", descriptor.digest);
    let feed = tokio::task::spawn_blocking(move || -> std::io::Result<Box<dyn ReadSeek>> {
        let mut reader = reader;
        if let Content::At(at) = content {
            reader.seek(SeekFrom::Start(at))?;
        }
        let total = descriptor.size;
        let mut offset: i64 = 0;
        loop {
            let left = usize::try_from(total - offset).unwrap_or(0).min(CHUNK);
            let data = match &content {
                Content::Bytes(bytes) => {
                    let at = usize::try_from(offset).unwrap_or(0);
                    bytes[at..at + left].to_vec()
                }
                Content::At(_) => {
                    let mut data = vec![0; left];
                    reader.read_exact(&mut data)?;
                    data
                }
            };
            let end = offset + left as i64;
            let last = end == total;
            let request = WriteContentRequest {
                action: if last { WriteAction::Commit } else { WriteAction::Write } as i32,
                r#ref: reference.clone(),
                total,
                expected: descriptor.digest.clone(),
                offset,
                data,
                labels: if last { labels.clone() } else { HashMap::new() },
            };
            // The receiver goes away when containerd already has the blob.
            if sender.blocking_send(request).is_err() || last {
                return Ok(reader);
            }
            offset = end;
        }
    });
    let outcome = async {
        let mut answers = ContentClient::new(cri.channel()).write(namespaced(stream, lease)?).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok::<_, Error>(())
    }
    .await;
    let reader = feed
        .await
        .map_err(|error| Error::Containerd(error.to_string()))?
        .map_err(|error| Error::Containerd(format!("reading an image archive: {error}")))?;
    match outcome {
        Err(Error::Cri(status)) if status.code() == tonic::Code::AlreadyExists => Ok(reader),
        Err(error) => Err(error),
        Ok(()) => Ok(reader),
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, error)
}

/// Reads the archive's table of contents and decides what to write.
fn plan(reader: &mut dyn ReadSeek, default_name: &str) -> std::io::Result<Plan> {
    let mut entries: HashMap<String, (u64, i64)> = HashMap::new();
    {
        let mut archive = tar::Archive::new(&mut *reader);
        for entry in archive.entries()? {
            let entry = entry?;
            let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
            let size = i64::try_from(entry.size()).map_err(invalid)?;
            entries.insert(name, (entry.raw_file_position(), size));
        }
    }
    let mut read = |name: &str| -> std::io::Result<Option<Vec<u8>>> {
        let Some(&(at, size)) = entries.get(name) else { return Ok(None) };
        let mut data = vec![0; usize::try_from(size).map_err(invalid)?];
        reader.seek(SeekFrom::Start(at))?;
        reader.read_exact(&mut data)?;
        Ok(Some(data))
    };
    if let Some(index) = read("index.json")? {
        let index: Index = serde_json::from_slice(&index).map_err(invalid)?;
        let mut plan = Plan { blobs: Vec::new(), images: Vec::new() };
        for descriptor in index.manifests {
            if !add_manifest(&descriptor, &mut plan, &entries, &mut read)? {
                continue;
            }
            if let Some(name) = name_of(&descriptor, default_name) {
                plan.images.push((name, descriptor));
            }
        }
        return Ok(plan);
    }
    let Some(manifest) = read("manifest.json")? else {
        return Err(invalid("neither index.json nor manifest.json is in it"));
    };
    let images: Vec<DockerImage> = serde_json::from_slice(&manifest).map_err(invalid)?;
    let mut plan = Plan { blobs: Vec::new(), images: Vec::new() };
    for image in images {
        let mut from = |name: &str, media_type: &str, labels| -> std::io::Result<OciDescriptor> {
            let data = read(name)?.ok_or_else(|| invalid(format!("{name} is missing")))?;
            let descriptor = describe(media_type, &data);
            plan.blobs.push(Blob { descriptor: descriptor.clone(), content: Content::Bytes(data.into()), labels });
            Ok(descriptor)
        };
        let config = from(&image.config, CONFIG, HashMap::new())?;
        let layers =
            image.layers.iter().map(|layer| from(layer, LAYER, HashMap::new())).collect::<std::io::Result<Vec<_>>>()?;
        let manifest = Manifest { schema_version: 2, media_type: MANIFEST.into(), config, layers };
        let data = serde_json::to_vec(&manifest).map_err(invalid)?;
        let descriptor = describe(MANIFEST, &data);
        plan.blobs.push(Blob {
            descriptor: descriptor.clone(),
            content: Content::Bytes(data.into()),
            labels: manifest_labels(&manifest),
        });
        for name in image.repo_tags.unwrap_or_default() {
            plan.images.push((crate::images::reference::normalize(&name), descriptor.clone()));
        }
    }
    Ok(plan)
}

fn describe(media_type: &str, data: &[u8]) -> OciDescriptor {
    OciDescriptor {
        media_type: media_type.into(),
        digest: format!("sha256:{}", hex::encode(Sha256::digest(data))),
        size: data.len() as i64,
        ..OciDescriptor::default()
    }
}

/// Adds what `descriptor` refers to, then itself. False when the archive does not hold it (another platform's).
fn add_manifest(
    descriptor: &OciDescriptor,
    plan: &mut Plan,
    entries: &HashMap<String, (u64, i64)>,
    read: &mut dyn FnMut(&str) -> std::io::Result<Option<Vec<u8>>>,
) -> std::io::Result<bool> {
    let Some(data) = read(&blob_path(&descriptor.digest))? else { return Ok(false) };
    let mut labels;
    if descriptor.media_type.contains("index") || descriptor.media_type.contains("manifest.list") {
        let index: Index = serde_json::from_slice(&data).map_err(invalid)?;
        labels = HashMap::new();
        for (n, child) in index.manifests.iter().enumerate() {
            if add_manifest(child, plan, entries, read)? {
                labels.insert(format!("containerd.io/gc.ref.content.m.{n}"), child.digest.clone());
            }
        }
    } else {
        let manifest: Manifest = serde_json::from_slice(&data).map_err(invalid)?;
        for child in manifest.layers.iter().chain([&manifest.config]) {
            let Some(&(at, size)) = entries.get(&blob_path(&child.digest)) else {
                return Err(invalid(format!("blob {} is missing", child.digest)));
            };
            let descriptor = OciDescriptor { size, ..child.clone() };
            plan.blobs.push(Blob { descriptor, content: Content::At(at), labels: HashMap::new() });
        }
        labels = manifest_labels(&manifest);
    }
    labels.shrink_to_fit();
    plan.blobs.push(Blob { descriptor: descriptor.clone(), content: Content::Bytes(data.into()), labels });
    Ok(true)
}

fn manifest_labels(manifest: &Manifest) -> HashMap<String, String> {
    let mut labels =
        HashMap::from([("containerd.io/gc.ref.content.config".to_owned(), manifest.config.digest.clone())]);
    for (n, layer) in manifest.layers.iter().enumerate() {
        labels.insert(format!("containerd.io/gc.ref.content.l.{n}"), layer.digest.clone());
    }
    labels
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn name_of(descriptor: &OciDescriptor, default_name: &str) -> Option<String> {
    let annotation = |key: &str| descriptor.annotations.get(key).filter(|name| !name.is_empty());
    let full = annotation("io.containerd.image.name");
    // The reference annotation may be a tag alone, which names nothing.
    let partial = annotation("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']));
    match full.or(partial) {
        Some(name) => Some(crate::images::reference::normalize(name)),
        None if !default_name.is_empty() => Some(default_name.to_owned()),
        None => None,
    }
}
