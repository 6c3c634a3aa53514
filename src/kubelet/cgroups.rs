//! The groups of pods: `kubepods`, its classes, and one group a pod, under upstream's names (cgroupfs driver).
//!
//! Invariants:
//! - KG-1: a pod's group exists with its limits before its sandbox does, and goes after its last process.

use k8s_openapi::api::core::v1::Pod;
use sys::cgroup::{Cgroups, Limits};

use crate::containers::resources::{self, MIN_SHARES, Qos};
use crate::error::{Error, Result};

/// The groups on this machine.
#[derive(Debug, Clone)]
pub struct PodGroups {
    cgroups: Cgroups,
    root: String,
}

impl PodGroups {
    /// `root` is the group that holds `kubepods` ("" for the top).
    ///
    /// # Errors
    /// When the machine has no control groups.
    pub fn new(root: &str) -> Result<Self> {
        let cgroups = Cgroups::detect().map_err(|error| Error::Config(format!("control groups: {error}")))?;
        Ok(Self { cgroups, root: root.trim_end_matches('/').to_owned() })
    }

    pub fn is_v2(&self) -> bool {
        self.cgroups.is_v2()
    }

    /// The hierarchies themselves, for statistics.
    pub fn hierarchies(&self) -> &Cgroups {
        &self.cgroups
    }

    /// `/kubepods`.
    pub fn top(&self) -> String {
        format!("{}/kubepods", self.root)
    }

    /// The group of a class; guaranteed pods are directly under the top.
    pub fn class(&self, class: Qos) -> String {
        match class {
            Qos::Guaranteed => self.top(),
            Qos::Burstable => format!("{}/burstable", self.top()),
            Qos::BestEffort => format!("{}/besteffort", self.top()),
        }
    }

    pub fn of_pod(&self, class: Qos, uid: &str) -> String {
        format!("{}/pod{uid}", self.class(class))
    }

    /// Makes the groups of the classes. `milli_cpu` and `memory` are what pods may use in all.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn setup(&self, milli_cpu: i64, memory: i64) -> Result<()> {
        let io = |error: std::io::Error| Error::Config(format!("control groups: {error}"));
        for class in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            self.cgroups.create(&self.class(class)).map_err(io)?;
        }
        let top = Limits { cpu_shares: Some(resources::shares(milli_cpu)), memory: Some(memory), ..Limits::default() };
        self.cgroups.set(&self.top(), &top).map_err(io)?;
        let least = Limits { cpu_shares: Some(MIN_SHARES), ..Limits::default() };
        self.cgroups.set(&self.class(Qos::BestEffort), &least).map_err(io)
    }

    /// Gives the burstable class the weight of its pods together.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn weigh_burstable<'a>(&self, pods: impl Iterator<Item = &'a Pod>) -> Result<()> {
        let burstable = pods.filter(|pod| resources::qos(pod) == Qos::Burstable);
        let total: i64 = burstable.map(|pod| resources::pod_total(pod, "cpu", false)).sum();
        let limits = Limits { cpu_shares: Some(resources::shares(total)), ..Limits::default() };
        self.cgroups
            .set(&self.class(Qos::Burstable), &limits)
            .map_err(|error| Error::Config(format!("control groups: {error}")))
    }

    /// Makes the pod's group with its limits; its path.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn create_pod(&self, pod: &Pod) -> Result<String> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let group = self.of_pod(resources::qos(pod), uid);
        let io = |error: std::io::Error| {
            Error::pod(format!("failed to ensure that the pod: {uid} cgroups exist and are correctly applied: {error}"))
        };
        self.cgroups.create(&group).map_err(io)?;
        self.cgroups.set(&group, &resources::of_pod(pod)).map_err(io)?;
        Ok(group)
    }

    /// Removes the pod's group, whatever its class was.
    ///
    /// # Errors
    /// When something still runs in it.
    pub fn remove_pod(&self, uid: &str) -> Result<()> {
        for class in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            let group = self.of_pod(class, uid);
            self.cgroups
                .remove(&group)
                .map_err(|error| Error::pod(format!("removing the cgroup of pod {uid}: {error}")))?;
        }
        Ok(())
    }

    /// Pods that have a group.
    pub fn pods(&self) -> Vec<String> {
        [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort]
            .into_iter()
            .flat_map(|class| self.cgroups.children(&self.class(class)))
            .filter_map(|name| name.strip_prefix("pod").map(str::to_owned))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_names() {
        let groups = PodGroups { cgroups: Cgroups::V2("/nowhere".into()), root: String::new() };
        assert_eq!(groups.of_pod(Qos::Guaranteed, "u"), "/kubepods/podu");
        assert_eq!(groups.of_pod(Qos::Burstable, "u"), "/kubepods/burstable/podu");
        assert_eq!(groups.of_pod(Qos::BestEffort, "u"), "/kubepods/besteffort/podu");
    }
}
