//! The command line.

use std::path::PathBuf;

use clap::Parser;
use harness::repository;

use crate::rows::{self, Row};

/// Rounds of a comparison, unless told.
const ROUNDS: usize = 40;
const QUICK_ROUNDS: usize = 8;

/// Measures the plugins beside Go's plugins, and beside what the kernel needs at least.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub struct Options {
    /// Rounds of a comparison; what takes long has a part of them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    rounds: Option<u16>,
    /// Measure only rows with this name, a beginning of it, or a pattern with `*`;
    /// repeat it for more.
    #[arg(long, value_name = "NAME")]
    row: Vec<String>,
    /// Name the rows and measure nothing.
    #[arg(long)]
    pub list: bool,
    /// Fewer rounds, and smaller crowds where those take long.
    #[arg(long)]
    quick: bool,
    /// Where `figures.json` and `chart.svg` are written; beside the source of this
    /// program when everything is measured, else nowhere, unless told.
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
    /// Print what was measured for the program outside of the VM.
    #[arg(long, hide = true)]
    pub inside_vm: bool,
}

/// How much is done for a row.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Rounds of a comparison.
    pub rounds: usize,
    /// Whether crowds are smaller than a node's limits.
    pub is_quick: bool,
    /// Whether the machine is a VM, which may be emulated.
    pub is_emulated: bool,
}

impl Effort {
    /// Rounds of what takes long.
    pub fn few(&self) -> usize {
        self.rounds.div_ceil(4)
    }

    /// Rounds of what takes seconds.
    pub fn fewest(&self) -> usize {
        self.rounds.div_ceil(16)
    }

    /// One of two sizes.
    pub fn size(&self, full: usize, quick: usize) -> usize {
        if self.is_quick { quick } else { full }
    }
}

impl Options {
    /// The rows that are asked for.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = rows::all();
        let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
        // A whole name may also be the beginning of others.
        let is_meant = |pattern: &String, name| match names.contains(&pattern.as_str()) {
            true => pattern == name,
            false => matches(pattern, name),
        };
        rows.retain(|row| {
            let mut patterns = self.row.iter();
            self.row.is_empty() || patterns.any(|pattern| is_meant(pattern, row.name))
        });
        if rows.is_empty() {
            let text = format!("no row is called {:?}; see --list", self.row);
            clap::Error::raw(clap::error::ErrorKind::InvalidValue, text + "\n").exit();
        }
        rows
    }

    /// How much is done for each.
    pub fn effort(&self) -> Effort {
        let usual = if self.quick { QUICK_ROUNDS } else { ROUNDS };
        Effort {
            rounds: self.rounds.map_or(usual, usize::from),
            is_quick: self.quick,
            is_emulated: self.inside_vm,
        }
    }

    /// Where the figures go. A part of them does not replace those of everything.
    pub fn output(&self) -> Option<PathBuf> {
        let is_all = self.row.is_empty() && !self.quick;
        let usual = || repository().join("tests/bench");
        self.output.clone().or_else(|| is_all.then(usual))
    }

    /// The command line that measures `rows` with the same effort in the VM.
    pub fn for_vm(&self, rows: &[Row]) -> Vec<String> {
        let mut arguments = vec!["--inside-vm".to_owned()];
        arguments.extend(self.quick.then(|| "--quick".to_owned()));
        arguments.extend(self.rounds.map(|rounds| format!("--rounds={rounds}")));
        arguments.extend(rows.iter().map(|row| format!("--row={}", row.name)));
        arguments
    }
}

/// Whether `name` begins with `pattern`, or is what it describes with its asterisks.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else {
        return name.starts_with(pattern);
    };
    let Some(rest) = name.strip_prefix(before) else {
        return false;
    };
    let mut ends = (0..=rest.len()).filter(|end| rest.is_char_boundary(*end));
    after.is_empty() || ends.any(|end| matches(after, &rest[end..]))
}
