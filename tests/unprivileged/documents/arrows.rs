//! Which file of a crate uses which: rooms in one order, and no ring. Read from the paths
//! that begin with `crate::`, as all that lead to another file do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use fixtures::documents::root;

use super::CRATES;

/// The rooms of a crate, from the last that may use all others to the first.
struct Order {
    source: &'static str,
    rooms: &'static [&'static str],
    /// Pairs that stand beside each other in the order, and do not use each other either.
    apart: &'static [(&'static str, &'static str)],
}

const ORDERS: [Order; 2] = [
    Order {
        source: "eni-sync/src",
        rooms: &[
            "vpc",
            "ledger",
            "registration",
            "provision",
            "plugin",
            "agent",
            "cli",
        ],
        apart: &[
            ("ledger", "vpc"),
            ("vpc", "ledger"),
            ("plugin", "provision"),
        ],
    },
    Order {
        source: "common/src",
        rooms: &["files", "kernel", "cni", "records", "attach"],
        apart: &[("cni", "kernel"), ("cni", "files")],
    },
];

/// Which files each file uses. A file is named by its path without the ending.
type Uses = BTreeMap<String, BTreeSet<String>>;

fn uses(source: &Path) -> Uses {
    let mut texts = BTreeMap::new();
    read(source, source, &mut texts);
    let names: BTreeSet<String> = texts.keys().cloned().collect();
    let used = |(name, text): (&String, &String)| {
        let mut used: BTreeSet<String> = paths(text)
            .iter()
            .filter_map(|path| file_of(path, &names))
            .collect();
        used.remove(name);
        (name.clone(), used)
    };
    texts.iter().map(used).collect()
}

fn read(source: &Path, directory: &Path, texts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).expect("the sources can be listed") {
        let path = entry.expect("the sources can be listed").path();
        if path.is_dir() {
            read(source, &path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source can be read");
            let product = text.split("#[cfg(test)]\nmod tests {").next();
            let name = path.strip_prefix(source).expect("it is below the sources");
            let name = name.with_extension("").display().to_string();
            let name = name.trim_end_matches("/mod").to_owned();
            texts.insert(name, product.unwrap_or_default().to_owned());
        }
    }
}

/// The paths behind each `crate::` in a text, with one for each name in braces.
fn paths(text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let mut paths = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
        let (path, rest) = rest.split_at(end.unwrap_or(rest.len()));
        let path = path.trim_end_matches(':');
        paths.push(path.to_owned());
        if let Some(list) = rest
            .strip_prefix('{')
            .and_then(|list| list.split('}').next())
        {
            let names = list.split(',').map(str::trim);
            paths.extend(names.map(|name| format!("{path}::{name}")));
        }
    }
    paths
}

/// The file that the longest beginning of a path names.
fn file_of(path: &str, names: &BTreeSet<String>) -> Option<String> {
    let parts: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
    let beginnings = (1..=parts.len()).rev().map(|end| parts[..end].join("/"));
    beginnings.into_iter().find(|name| names.contains(name))
}

/// Files that use each other, directly or by way of others.
fn ring(uses: &Uses) -> Option<Vec<String>> {
    let mut left: BTreeMap<&String, BTreeSet<&String>> = uses
        .iter()
        .map(|(name, used)| (name, used.iter().collect()))
        .collect();
    // Whoever uses nobody that is left is in no ring.
    while let Some(free) = left.iter().find(|(_, used)| used.is_empty()) {
        let free = *free.0;
        left.remove(free);
        left.values_mut().for_each(|used| {
            used.remove(free);
        });
    }
    (!left.is_empty()).then(|| left.keys().map(|name| (*name).clone()).collect())
}

/// The arrows from a room to one that must not be used there.
fn against(order: &Order, uses: &Uses) -> Vec<String> {
    let place = |file: &str| {
        let room = file.split('/').next().unwrap_or_default();
        order.rooms.iter().position(|name| *name == room)
    };
    let mut wrong = Vec::new();
    for (file, used) in uses {
        for other in used {
            let (Some(from), Some(to)) = (place(file), place(other)) else {
                continue;
            };
            let pair = (order.rooms[from], order.rooms[to]);
            if to > from || order.apart.contains(&pair) {
                wrong.push(format!("{file} uses {other}"));
            }
        }
    }
    wrong
}

#[test]
fn rooms_use_each_other_in_one_order() {
    for order in &ORDERS {
        let uses = uses(&root().join(order.source));
        for room in order.rooms {
            assert!(uses.contains_key(*room), "{}: no {room}", order.source);
        }
        let wrong = against(order, &uses);
        assert!(wrong.is_empty(), "{}: {wrong:#?}", order.source);
    }
}

#[test]
fn no_files_of_a_crate_use_each_other_in_a_ring() {
    for name in CRATES {
        let ring = ring(&uses(&root().join(name).join("src")));
        assert_eq!(ring, None, "{name}");
    }
}

#[test]
fn an_arrow_against_the_order_and_a_ring_are_found() {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let uses = Uses::from([
        ("vpc/ec2".to_owned(), list(&["ledger/entry"])),
        ("ledger/entry".to_owned(), list(&["cli"])),
        ("cli".to_owned(), list(&["ledger/entry"])),
    ]);
    let wrong = against(&ORDERS[0], &uses);
    assert_eq!(
        wrong,
        ["ledger/entry uses cli", "vpc/ec2 uses ledger/entry"]
    );
    let all = ring(&uses).expect("there is a ring");
    assert_eq!(all, ["cli", "ledger/entry", "vpc/ec2"]);
    let text = "use crate::{ledger};\n// crate::cli\nuse crate::vpc::ec2::{self, Ec2};";
    let names = list(&["ledger", "vpc", "vpc/ec2", "cli"]);
    let files = paths(text);
    let files: BTreeSet<String> = files.iter().filter_map(|p| file_of(p, &names)).collect();
    assert_eq!(files, list(&["ledger", "vpc/ec2"]));
}

/// Two clones of one source that share a cache of builds have the same programs.
#[test]
fn no_test_has_the_path_of_the_clone_that_it_was_built_in() {
    let mut texts = BTreeMap::new();
    let tests = root().join("tests");
    read(&tests, &tests, &mut texts);
    assert!(texts.len() > 100, "{}", texts.len());
    // Not in one piece, because this is one of the files.
    let path = format!("env!(\"{}\")", "CARGO_MANIFEST_DIR");
    let found: Vec<&String> = texts
        .iter()
        .filter_map(|(file, text)| text.contains(&path).then_some(file))
        .collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn host_local_is_made_of_nothing_that_opens_a_socket() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "tree",
        "--locked",
        "--offline",
        "--package",
        "host-local-ipam",
    ]);
    cargo.args(["--edges", "normal", "--prefix", "none"]);
    let output = cargo.current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "{output:?}");
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(tree.contains("common v"), "{tree}");
    let socket = |line: &&str| line.contains("netlink") || line.starts_with("tokio");
    let found: Vec<&str> = tree.lines().filter(socket).collect();
    assert!(found.is_empty(), "{found:?}");
}
