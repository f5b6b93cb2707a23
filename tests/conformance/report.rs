//! What has come of every assertion and plugin, as a table and as JSON.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::assertion::Assertion;

/// What an assertion has come to.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "outcome", content = "reason")]
pub(crate) enum Outcome {
    /// It holds.
    Pass,
    /// It does not: what was expected, and what came.
    Fail(String),
    /// It has nothing to say of this plugin, and why.
    #[serde(rename = "n/a")]
    NotApplicable(String),
}

/// One assertion applied to one plugin.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Entry {
    pub(crate) number: u8,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

/// A plugin and all that was found.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Column {
    pub(crate) plugin: String,
    pub(crate) label: String,
    pub(crate) entries: Vec<Entry>,
    pub(crate) notes: Vec<String>,
}

impl Column {
    fn title(&self) -> String {
        if self.label.is_empty() {
            return self.plugin.clone();
        }
        format!("{} ({})", self.plugin, self.label)
    }

    fn outcome(&self, number: u8) -> Option<&Outcome> {
        let entry = self.entries.iter().find(|entry| entry.number == number);
        entry.map(|entry| &entry.outcome)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.entries
            .iter()
            .any(|entry| matches!(entry.outcome, Outcome::Fail(_)))
    }

    /// How many have passed, failed, and had nothing to say.
    fn counts(&self) -> [usize; 3] {
        let count =
            |is: fn(&Outcome) -> bool| self.entries.iter().filter(|e| is(&e.outcome)).count();
        [
            count(|outcome| *outcome == Outcome::Pass),
            count(|outcome| matches!(outcome, Outcome::Fail(_))),
            count(|outcome| matches!(outcome, Outcome::NotApplicable(_))),
        ]
    }
}

/// The columns in the files that earlier runs have written.
pub(crate) fn read(path: &Path) -> Result<Vec<Column>, String> {
    let text = fs::read_to_string(path)
        .map_err(|cause| format!("cannot read {}: {cause}", path.display()))?;
    serde_json::from_str(&text).map_err(|cause| format!("{}: {cause}", path.display()))
}

/// Writes columns for a later run, on one line.
pub(crate) fn write(path: &Path, columns: &[Column]) -> Result<(), String> {
    let text = serde_json::to_string(columns).map_err(|cause| cause.to_string())?;
    fs::write(path, text + "\n")
        .map_err(|cause| format!("cannot write {}: {cause}", path.display()))
}

/// The assertions with a column for each plugin, what failed and why, why others do not
/// apply, and the figures.
pub(crate) fn text(assertions: &[&Assertion], columns: &[Column]) -> String {
    let mut text = table(assertions, columns);
    let mut reasons: Vec<String> = Vec::new();
    for column in columns {
        for Entry { number, outcome } in &column.entries {
            match outcome {
                Outcome::Pass => {}
                Outcome::Fail(reason) => {
                    text += &format!("\nFAIL {number} {}: {reason}\n", column.title())
                }
                Outcome::NotApplicable(reason) => {
                    reasons.push(format!("n/a {number} {}: {reason}", column.title()));
                }
            }
        }
    }
    text += "\n";
    for line in reasons {
        text += &format!("{line}\n");
    }
    for column in columns {
        for note in &column.notes {
            text += &format!("{}: {note}\n", column.title());
        }
    }
    text
}

fn table(assertions: &[&Assertion], columns: &[Column]) -> String {
    let cells = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut header = vec!["".to_owned(), "assertion".to_owned()];
    header.extend(columns.iter().map(Column::title));
    let mut text = cells(header);
    text += &format!("|--:|---|{}\n", ":-:|".repeat(columns.len()));
    for assertion in assertions {
        let mut row = vec![assertion.number.to_string(), assertion.sentence.to_owned()];
        row.extend(
            columns
                .iter()
                .map(|column| match column.outcome(assertion.number) {
                    Some(Outcome::Pass) => "pass".to_owned(),
                    Some(Outcome::Fail(_)) => "**FAIL**".to_owned(),
                    Some(Outcome::NotApplicable(_)) => "n/a".to_owned(),
                    None => String::new(),
                }),
        );
        text += &cells(row);
    }
    let mut row = vec![String::new(), "passed, failed, n/a".to_owned()];
    row.extend(columns.iter().map(|column| {
        let [passed, failed, rest] = column.counts();
        format!("{passed}, {failed}, {rest}")
    }));
    text + &cells(row)
}
