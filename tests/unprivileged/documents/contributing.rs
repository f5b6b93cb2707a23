//! What the documents say of where things are, CONTRIBUTING.md first of all.

use std::fs;

use fixtures::documents::{markdown, root};

/// The directories in which the sources, tests and documents are.
const DIRECTORIES: [&str; 9] = [
    "common",
    "deploy",
    "docs",
    "eni-sync",
    "examples",
    "host-device",
    "host-local-ipam",
    "ipvlan",
    "tests",
];

fn contributing() -> String {
    fs::read_to_string(root().join("CONTRIBUTING.md")).expect("it can be read")
}

/// What is between backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn is_path(text: &str) -> bool {
    let directory = text.split_once('/').map(|(directory, _)| directory);
    let is_one = !text.contains([' ', '*', '{', '<', '\n']);
    is_one && directory.is_some_and(|directory| DIRECTORIES.contains(&directory))
}

#[test]
fn every_path_that_a_page_names_exists() {
    let mut count = 0;
    for (page, text) in markdown(&root()) {
        for path in quoted(&text).into_iter().filter(|text| is_path(text)) {
            count += 1;
            assert!(root().join(path).exists(), "{page:?}: nothing is at {path}");
        }
    }
    assert!(count > 40, "only {count} paths are found");
}

#[test]
fn the_place_of_a_typical_change_has_what_the_table_names() {
    let page = contributing();
    let (_, table) = page
        .split_once("### Five typical changes")
        .expect("the page has this section");
    let rows = table.lines().skip_while(|line| !line.starts_with("|---"));
    let rows: Vec<&str> = rows
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert_eq!(rows.len(), 5);
    for row in rows {
        let place = row.split(" | ").nth(1).expect("the row has a place");
        let (paths, items): (Vec<&str>, Vec<&str>) =
            quoted(place).into_iter().partition(|text| is_path(text));
        let code = fs::read_to_string(root().join(paths[0])).expect("it can be read");
        for item in items {
            let (kind, method) = item.split_once("::").unwrap_or((item, ""));
            let is_there = code.contains(&format!(" {kind} {{"))
                && (method.is_empty() || code.contains(&format!("fn {method}(")));
            assert!(is_there, "{} does not have {item}", paths[0]);
        }
    }
}
