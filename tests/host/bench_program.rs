//! The program that measures: what it names, and what it writes. How long something
//! takes is nowhere asserted.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use harness::{our_plugin, program};
use serde_json::Value;

/// The row that needs neither a VM nor more packages than the tests.
const CHEAP: &str = "host-local/shared";

fn bench(arguments: &[&str]) -> Output {
    let plugin = our_plugin("host-local");
    Command::new(program("bench"))
        .args(arguments)
        .env("CNI_PATH", plugin.parent().unwrap())
        .output()
        .expect("the program can be started")
}

fn stdout_of(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}{errors}", output.status);
    text
}

fn names(arguments: &[&str]) -> Vec<String> {
    let listed = stdout_of(&bench(&[&["--list"], arguments].concat()));
    let lines = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    lines.map(str::to_owned).collect()
}

#[test]
fn rows_are_named_whole_or_by_their_beginning_or_by_a_pattern() {
    let all = names(&[]);
    assert!(all.iter().any(|name| name == CHEAP), "{all:?}");
    assert_eq!(names(&["--row", CHEAP]), [CHEAP]);
    assert_eq!(names(&["--row", "host-local/1000"]), ["host-local/1000"]);
    assert_eq!(names(&["--row", "host-local/sh"]), [CHEAP]);
    assert_eq!(names(&["--row", "*local*shared"]), [CHEAP]);
    let some = names(&["--row", "host-local/", "--row", "parse"]);
    assert!(some.len() > 3 && some.len() < all.len(), "{some:?}");
    assert_eq!(bench(&["--row", "no-such-row"]).status.code(), Some(2));
}

#[test]
fn figures_of_both_parties_are_written_as_json_and_drawn() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let printed = stdout_of(&bench(&["--rounds", "1", "--row", CHEAP, "--output", path]));
    assert!(printed.contains("ADD CPU"), "{printed}");
    let rows = figures(directory.path());
    let [row] = rows.as_slice() else {
        panic!("there is more than one row: {rows:#?}");
    };
    assert_eq!(row["row"], CHEAP);
    let figures = row["figures"].as_array().unwrap();
    let named: Vec<_> = figures.iter().map(|figure| &figure["what"]).collect();
    assert_eq!(named, ["ADD CPU", "ADD wall", "DEL CPU", "DEL wall"]);
    for figure in figures {
        let (ours, go) = (&figure["ours"], &figure["other"]["value"]);
        assert!(ours.as_f64().unwrap() > 0.0, "{figure:#}");
        assert!(go.as_f64().unwrap() > 0.0, "{figure:#}");
        assert_eq!(figure["other"]["name"], "Go");
        assert!(figure["ratio"].is_f64(), "{figure:#}");
    }
    let chart = fs::read_to_string(directory.path().join("chart.svg")).unwrap();
    assert!(chart.contains("host-local/shared: ADD CPU"), "{chart}");
}

fn figures(directory: &Path) -> Vec<Value> {
    let text = fs::read_to_string(directory.join("figures.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    document["rows"].as_array().unwrap().clone()
}
