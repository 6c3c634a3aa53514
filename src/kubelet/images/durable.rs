//! An unpacked image survives a power cut: the runtime unpacks without waiting for the disk, so a machine that loses
//! power soon after a pod's first start comes back with empty files where programs were. The kubelet has the image's
//! file system written out once per image, right after its first use.
//!
//! Invariants:
//! - IG-3: an image is flushed at most once in a kubelet's life, and never while a pod waits for it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use component_base::TaskGroup;
use parking_lot::Mutex;
use tracing::{debug, warn};

use crate::cri::Cri;

/// Images that are on the disk.
#[derive(Clone)]
pub struct Durable {
    cri: Cri,
    tasks: TaskGroup,
    flushed: Arc<Mutex<HashSet<String>>>,
}

impl Durable {
    pub fn new(cri: Cri, tasks: TaskGroup) -> Self {
        Self { cri, tasks, flushed: Arc::default() }
    }

    /// A container or sandbox was made of `image`.
    pub fn used(&self, image: &str) {
        if !self.flushed.lock().insert(image.to_owned()) {
            return;
        }
        let (this, image) = (self.clone(), image.to_owned());
        self.tasks.spawn(async move {
            if let Err(error) = this.flush().await {
                warn!(image, %error, "cannot write an image's files out");
                this.flushed.lock().remove(&image);
            } else {
                debug!(image, "image is on the disk");
            }
        });
    }

    async fn flush(&self) -> crate::error::Result<()> {
        let info = self.cri.image_fs_info().await?;
        let places = info.image_filesystems.into_iter().filter_map(|fs| fs.fs_id);
        for place in places.map(|id| PathBuf::from(id.mountpoint)) {
            let at = place.clone();
            let written = tokio::task::spawn_blocking(move || sys::mount::flush(&at)).await;
            written.map_err(std::io::Error::other).flatten().map_err(crate::error::Error::io("flushing", &place))?;
        }
        Ok(())
    }
}
