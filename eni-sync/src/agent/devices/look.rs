//! What the look at the node finds, for the thread that speaks with the kubelet.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::agent::devices::api::KUBELET_SOCKET;
use crate::agent::devices::shown::Shown;

/// What the look at the node has found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    /// Whether this agent is the one that serves plugins. That one registers the resources: two
    /// would take them from each other.
    pub(crate) is_serving: bool,
    /// The socket of the kubelet, if there is one.
    pub(crate) kubelet: Option<Identity>,
    /// The resources, in the order of the configuration.
    pub(crate) resources: Vec<Shown>,
}

/// Which socket it is: a file with the same number can be another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    inode: u64,
    changed: (i64, i64),
}

impl Identity {
    /// That of the kubelet's socket in the directory.
    pub(crate) fn of_kubelet(directory: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(directory.join(KUBELET_SOCKET)).ok()?;
        Some(Self {
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}
