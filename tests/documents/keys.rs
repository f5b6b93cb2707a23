//! The tables of keys in `docs`, as tests read them: `wrong_values`, `every_key` and `since`
//! compare them with the programs.

use std::fs;

use serde_json::{Value, json};

use super::root;

/// What begins a table of keys.
const HEADER: &str = "| key | type | default | since | meaning | a wrong value |";

/// A row of a table: a key, and wrong values of it.
pub(crate) struct Row {
    /// The key with those that it is in, such as `ipam.ranges[][].subnet`.
    pub(crate) key: String,
    /// The type of its value, in words.
    pub(super) kind: String,
    /// `Go`, or the first version that has the key.
    pub(super) since: String,
    pub(super) wrong: Vec<Wrong>,
}

/// A value, and the error that it causes.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) command: &'static str,
    pub(super) value: Value,
    pub(super) code: Option<u64>,
    pub(super) text: String,
}

/// The rows of the tables in a section of a page; of the whole page without a title.
pub(crate) fn rows(page: &str, section: &str) -> Vec<Row> {
    let path = root().join("docs").join(page);
    let page = fs::read_to_string(path).expect("the page can be read");
    let begin = page.find(section).expect("the page has this section");
    let rest = &page[begin..];
    let end = rest[1..].find("\n## ").map_or(rest.len(), |end| end + 1);
    let rest = if section.is_empty() {
        rest
    } else {
        &rest[..end]
    };
    let tables = rest.split(HEADER).skip(1);
    let lines = tables.flat_map(|table| table.lines().skip(2).take_while(|l| l.starts_with('|')));
    lines.map(row).collect()
}

fn row(line: &str) -> Row {
    let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
    assert_eq!(cells.len(), 6, "{line}");
    // Between backquotes are by turns a value and the text of its error.
    let parts: Vec<&str> = cells[5].split('`').collect();
    let wrong = parts.chunks_exact(4).map(|part| Wrong {
        command: match part[0] {
            by if by.ends_with("by GC ") => "GC",
            by if by.ends_with("by CHECK ") => "CHECK",
            _ => "ADD",
        },
        value: serde_json::from_str(part[1]).expect("a value is JSON"),
        code: part[2]
            .strip_prefix(": code ")
            .map(|code| code.trim_end_matches([',', ' ']).parse().expect("a code")),
        text: part[3].to_owned(),
    });
    Row {
        key: cells[0].trim_matches('`').to_owned(),
        kind: cells[1].to_owned(),
        since: cells[3].to_owned(),
        wrong: wrong.collect(),
    }
}

/// The names in a key and whether each is that of a list of so many dimensions.
pub(crate) fn segments(key: &str) -> Vec<(String, usize)> {
    let key = key.replace("cni.dev/", "cni%dev/");
    let segments = key.split('.').map(|segment| {
        let name = segment.trim_end_matches("[]");
        let dimensions = (segment.len() - name.len()) / 2;
        (name.replace('%', "."), dimensions)
    });
    segments.collect()
}

/// Sets a key in a configuration; in a list, that of its first entry.
pub(super) fn set(mut at: &mut Value, key: &str, value: &Value) {
    for (name, dimensions) in segments(key) {
        at = &mut at[name];
        for _ in 0..dimensions {
            if !at.is_array() {
                *at = json!([null]);
            }
            at = &mut at[0];
        }
    }
    *at = value.clone();
}
