//! The parts of a scene's description.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Namespace;

/// A line for each link of a namespace.
pub(super) fn links(place: &str, namespace: &Namespace) -> BTreeSet<String> {
    let all = namespace.ip_json(&["address", "show"]);
    let line = |link: &Value| {
        let is_up = link["flags"].to_string().contains("\"UP\"");
        let global = link["addr_info"].as_array().into_iter().flatten();
        let global = global.filter(|address| address["scope"] != "link");
        let mut addresses: Vec<String> = global.map(|a| a["local"].to_string()).collect();
        addresses.sort();
        let keys = ["ifname", "address", "mtu", "ifalias", "altnames"];
        let values = keys.map(|key| link[key].to_string()).join(" ");
        format!("{place}: link {values} {addresses:?} up={is_up}")
    };
    all.as_array().into_iter().flatten().map(line).collect()
}

/// The content of a file of the ledger; `None` when it is not JSON.
pub(super) fn entry(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Every file below a directory.
pub(super) fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the state can be read");
    let paths = entries.flatten().map(|entry| entry.path());
    let below = |path: PathBuf| match path.is_dir() {
        true => files(&path),
        false => vec![path],
    };
    paths.flat_map(below).collect()
}
