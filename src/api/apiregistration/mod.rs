//! apiregistration.k8s.io: which server serves which group version.

pub mod apiservice;
