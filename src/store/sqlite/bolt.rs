//! Writes a bbolt file (the format of etcd's database) in one pass.
//!
//! The format: pages of 4 KiB. Pages 0 and 1 are metas (root bucket, freelist, number of pages, checksum), page 2 is an
//! empty freelist. A bucket is a B+ tree of leaf and branch pages; its root's number is a value of the root bucket.
//! Numbers are little-endian.
//!
//! Invariants:
//! - BO-1: every page belongs to exactly one tree: the file passes bbolt's own check.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};

const PAGE: usize = 4096;
/// Head of a page, and of each of its elements.
const HEAD: usize = 16;
const MAGIC: u32 = 0xed0c_daed;
const VERSION: u32 = 2;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const META: u16 = 4;
const FREELIST: u16 = 16;
/// Flag of a leaf's element: the value is a bucket.
const BUCKET: u32 = 1;

pub(super) struct File<W: Write + Seek> {
    out: BufWriter<W>,
    pages: u64,
    buckets: Vec<(Vec<u8>, u64)>,
}

impl<W: Write + Seek> File<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        let mut this = Self { out: BufWriter::with_capacity(1 << 16, out), pages: 0, buckets: Vec::new() };
        for flags in [META, META, FREELIST] {
            this.page(flags, &[], &[])?;
        }
        Ok(this)
    }

    /// Writes a bucket; the entries that `fill` adds, and the buckets, must come in order of their keys.
    pub(super) fn bucket<E: From<io::Error>>(
        &mut self,
        name: &str,
        fill: impl FnOnce(&mut Bucket<'_, W>) -> Result<(), E>,
    ) -> Result<(), E> {
        let root = self.tree(0, fill)?;
        self.buckets.push((name.as_bytes().to_vec(), root));
        Ok(())
    }

    /// Returns the size in bytes.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        let buckets = std::mem::take(&mut self.buckets);
        let root = self.tree(BUCKET, |tree| {
            for (name, root) in buckets {
                let mut value = root.to_le_bytes().to_vec();
                value.extend([0; 8]);
                tree.add(&name, &value)?;
            }
            Ok::<_, io::Error>(())
        })?;
        for id in 0..2_u64 {
            let mut meta = Vec::with_capacity(80);
            for number in [MAGIC, VERSION, PAGE as u32, 0] {
                meta.extend(number.to_le_bytes());
            }
            // Root bucket: page and sequence; freelist; pages; transaction.
            for number in [root, 0, 2, self.pages, id] {
                meta.extend(number.to_le_bytes());
            }
            meta.extend(fnv(&meta).to_le_bytes());
            let mut page = head(id, META, 0, 0);
            page.extend(meta);
            self.out.seek(SeekFrom::Start(id * PAGE as u64))?;
            self.out.write_all(&page)?;
        }
        self.out.flush()?;
        Ok(self.pages * PAGE as u64)
    }

    fn tree<E: From<io::Error>>(
        &mut self,
        flags: u32,
        fill: impl FnOnce(&mut Bucket<'_, W>) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut tree = Bucket { file: self, flags, entries: Vec::new(), bytes: HEAD, children: Vec::new() };
        fill(&mut tree)?;
        Ok(tree.finish()?)
    }

    /// Writes elements (their heads without positions, in 4-byte words before and after it) and their data.
    fn page(&mut self, flags: u16, elements: &[[u32; 4]], data: &[u8]) -> io::Result<u64> {
        let id = self.pages;
        let bytes = HEAD + elements.len() * HEAD + data.len();
        let pages = bytes.div_ceil(PAGE);
        let count = u16::try_from(elements.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let overflow = u32::try_from(pages - 1).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut page = Vec::with_capacity(pages * PAGE);
        page.extend(head(id, flags, count, overflow));
        page.extend(elements.iter().flatten().flat_map(|word| word.to_le_bytes()));
        page.extend(data);
        page.resize(pages * PAGE, 0);
        self.out.write_all(&page)?;
        self.pages += pages as u64;
        Ok(id)
    }
}

pub(super) struct Bucket<'f, W: Write + Seek> {
    file: &'f mut File<W>,
    flags: u32,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
    /// First key and number of every leaf.
    children: Vec<(Vec<u8>, u64)>,
}

impl<W: Write + Seek> Bucket<'_, W> {
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let bytes = HEAD + key.len() + value.len();
        if self.bytes + bytes > PAGE && !self.entries.is_empty() {
            self.leaf()?;
        }
        self.bytes += bytes;
        self.entries.push((key.to_vec(), value.to_vec()));
        Ok(())
    }

    fn leaf(&mut self) -> io::Result<()> {
        let entries = std::mem::take(&mut self.entries);
        self.bytes = HEAD;
        let mut elements = Vec::with_capacity(entries.len());
        let mut data = Vec::with_capacity(PAGE);
        for (i, (key, value)) in entries.iter().enumerate() {
            elements.push([self.flags, position(i, entries.len(), &data), key.len() as u32, value.len() as u32]);
            data.extend(key);
            data.extend(value);
        }
        let id = self.file.page(LEAF, &elements, &data)?;
        let first = entries.into_iter().next().map(|(key, _)| key).unwrap_or_default();
        self.children.push((first, id));
        Ok(())
    }

    /// Writes the branches, level by level; returns the number of the root.
    fn finish(mut self) -> io::Result<u64> {
        if !self.entries.is_empty() || self.children.is_empty() {
            self.leaf()?;
        }
        let mut level = self.children;
        while level.len() > 1 {
            let mut above = Vec::new();
            let mut rest = level.as_slice();
            while !rest.is_empty() {
                let mut bytes = HEAD;
                let fits = rest.iter().take_while(|(key, _)| {
                    bytes += HEAD + key.len();
                    bytes <= PAGE
                });
                let (page, others) = rest.split_at(fits.count().max(2).min(rest.len()));
                rest = others;
                let mut elements = Vec::with_capacity(page.len());
                let mut data = Vec::with_capacity(PAGE);
                for (i, (key, id)) in page.iter().enumerate() {
                    let (low, high) = (*id as u32, (*id >> 32) as u32);
                    elements.push([position(i, page.len(), &data), key.len() as u32, low, high]);
                    data.extend(key);
                }
                above.push((page[0].0.clone(), self.file.page(BRANCH, &elements, &data)?));
            }
            level = above;
        }
        Ok(level[0].1)
    }
}

/// Where the data of element `i` of `count` begins, counted from the element itself.
fn position(i: usize, count: usize, data: &[u8]) -> u32 {
    ((count - i) * HEAD + data.len()) as u32
}

fn head(id: u64, flags: u16, count: u16, overflow: u32) -> Vec<u8> {
    let mut head = id.to_le_bytes().to_vec();
    head.extend(flags.to_le_bytes());
    head.extend(count.to_le_bytes());
    head.extend(overflow.to_le_bytes());
    head
}

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
