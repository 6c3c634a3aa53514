//! sys
pub mod capability;
pub mod cgroup;
pub mod inotify;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod process;
#[cfg(feature = "sqlite-faults")]
#[allow(unsafe_code)]
pub mod sqlite_faults;
