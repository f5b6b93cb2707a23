//! Finds the networks of this node without options: in the files of its runtime, and in the
//! runtime's cache of attachments.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use aws_smithy_types::base64;
use serde::Deserialize;
use serde_json::Value;

use crate::agent::configuration;
use crate::cli::doctor::source::{self, Source};

/// The default directory of CNI configurations.
const CONFIGURATIONS: &str = "/etc/cni/net.d";
/// The directories in which libcni caches the configuration of each attachment, for runtimes
/// and for Multus. Source: libcni `cacheAdd`, Multus' `cniDir`.
const CACHES: [&str; 2] = ["/var/lib/cni/results", "/var/lib/cni/multus/results"];

/// A cached attachment of libcni.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    /// The configuration list in base64.
    config: String,
    network_name: String,
}

/// The networks of this node, each once.
pub(super) fn networks() -> Vec<Source> {
    let directory = Path::new(CONFIGURATIONS);
    let mut found = match directory.is_dir() {
        true => source::read(&[], Some(directory)),
        false => Vec::new(),
    };
    let is_known = |name: &str, found: &[Source]| {
        let mut documents = found
            .iter()
            .filter_map(|source| source.document.as_ref().ok());
        documents.any(|document| document["name"] == name)
    };
    let mut seen = BTreeSet::new();
    for cached in CACHES.iter().flat_map(|path| cached(Path::new(path))) {
        let name = cached.network_name.clone();
        if !is_known(&name, &found) && seen.insert(name.clone()) {
            found.extend(of_attachment(&cached, &name));
        }
    }
    found
}

/// The agent's configuration at the default path, if there is one.
pub(super) fn agent() -> Option<PathBuf> {
    let path = PathBuf::from(configuration::PATH);
    path.is_file().then_some(path)
}

/// The cached attachments in a directory. Damaged files are the runtime's concern.
fn cached(directory: &Path) -> Vec<Cached> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let read = |path: &PathBuf| serde_json::from_slice(&fs::read(path).ok()?).ok();
    paths.iter().filter_map(read).collect()
}

fn of_attachment(cached: &Cached, name: &str) -> Option<Source> {
    let text = base64::decode(&cached.config).ok()?;
    let document: Value = serde_json::from_slice(&text).ok()?;
    Some(Source::found(
        format!("{name} (of a running pod)"),
        document,
    ))
}
