//! Which addresses are on an interface of some pod right now. The ledger knows who an
//! address was for; this shows who has it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use common::error::{Error, Result};
use common::interface::Sandbox;

/// Where runtimes mount the namespaces of pods: containerd, CRI-O and podman use the
/// first, Docker the second.
const DIRECTORIES: [&str; 2] = ["/run/netns", "/var/run/docker/netns"];

/// The addresses in every namespace that a runtime shows, and in those at `paths`.
///
/// # Errors
/// Those of a namespace that exists and cannot be looked into: an address that may be
/// in it must not be taken for free.
pub(crate) fn addresses<'a>(paths: impl Iterator<Item = &'a str>) -> Result<HashSet<IpAddr>> {
    let mut namespaces: HashSet<PathBuf> = paths.map(PathBuf::from).collect();
    for directory in DIRECTORIES {
        namespaces.extend(list(directory)?);
    }
    let mut found = HashSet::new();
    for path in namespaces {
        if let Some(mut sandbox) = Sandbox::open_for_del(&path.to_string_lossy())? {
            let all = sandbox.netlink.all_addresses()?;
            found.extend(all.into_iter().map(|address| address.cidr.address()));
        }
    }
    Ok(found)
}

/// The paths in a directory; none where no runtime has made it.
fn list(directory: &str) -> Result<Vec<PathBuf>> {
    let failed = |cause| Error::io(format!("failed to list {directory:?}"), &cause);
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
            .collect(),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(cause) => Err(failed(cause)),
    }
}
