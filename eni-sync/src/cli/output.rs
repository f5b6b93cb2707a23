//! The commands' output on stdout: data, possibly for a program that stops reading early.
//! Everything else goes to stderr.

use std::io::{self, ErrorKind, Write};

use common::error::{Error, Result};
use common::text::{printable, printable_json};
use serde::Serialize;

/// The gap between two columns of a table.
const GAP: &str = "  ";

/// Prints a text. A reader that has closed the pipe is not an error: it has read what it
/// needed.
///
/// # Errors
/// Code 5 when the text cannot be written.
pub(crate) fn print(text: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(cause) if cause.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io("failed to write to stdout", &cause))
        }
        _ => Ok(()),
    }
}

/// Prints a document as JSON.
///
/// # Errors
/// As for [`print()`].
pub(crate) fn print_json(document: &impl Serialize) -> Result<()> {
    print(json(document)?.as_bytes())
}

/// A document as JSON.
///
/// # Errors
/// Code 5 when it cannot be written.
pub(crate) fn json(document: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(document)
        .map_err(|cause| Error::io("failed to write JSON", &cause.into()))?;
    Ok(format!("{}\n", printable_json(&text)))
}

/// The rows as lines, every column as wide as its widest cell. Control characters in a cell are
/// escaped.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let shown = |row: &Vec<String>| row.iter().map(|c| printable(c).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(shown).collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells.map(|(cell, w)| format!("{cell:<w$}")).collect();
        format!("{}\n", cells.join(GAP).trim_end())
    };
    rows.iter().map(line).collect()
}

/// A duration in its two largest units.
pub(crate) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let rows = [row(&["ADDRESS", "X"]), row(&["a", "b", "c"]), row(&["ä"])];
        assert_eq!(table(&rows), "ADDRESS  X\na        b  c\nä\n");
    }

    #[test]
    fn a_time_has_its_two_largest_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m1s"),
            (7_260, "2h1m"),
            (90_000, "1d1h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
