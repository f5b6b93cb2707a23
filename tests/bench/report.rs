//! What was measured, as a table for people and as JSON.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use crate::figure::{Curve, Figure, Measured, Target};
use crate::rows::Row;

/// Where it is measured.
#[derive(Debug, Serialize)]
pub struct Machine {
    kernel: String,
    cpus: usize,
    /// How many threads wanted a CPU in the minute before: other work disturbs.
    load: String,
}

impl Machine {
    pub fn now() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let load = read("/proc/loadavg");
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

/// Prints the names of rows.
pub fn list(rows: &[Row]) {
    for row in rows {
        println!("{:26} {}", row.name, row.about);
    }
}

/// Prints the names of the table's columns.
pub fn print_head() {
    println!(
        "{:25} {:24} {:>9} {:>9}  {:26} {:>6}  {:>8}",
        "row", "figure", "ours", "other", "which is", "ratio", "target"
    );
}

/// Prints the figures and curves of one row.
pub fn print_row(row: &Measured) {
    for figure in &row.report.figures {
        print_figure(&row.row, figure);
    }
    for curve in &row.report.curves {
        print_curve(&row.row, curve);
    }
}

/// Prints how many targets are met, and what figures depend on besides.
pub fn print_summary(measured: &[Measured], machine: &Machine) {
    let verdicts = measured.iter().flat_map(|row| &row.report.figures);
    let verdicts: Vec<bool> = verdicts.filter_map(Figure::is_met).collect();
    let met = verdicts.iter().filter(|is_met| **is_met).count();
    println!("\n{met} of {} targets are met", verdicts.len());
    let seconds: f64 = measured.iter().map(|row| row.seconds).sum();
    println!(
        "measured in {seconds:.0} s with Linux {} on {} CPUs, whose load was {} before",
        machine.kernel, machine.cpus, machine.load
    );
    let emulated: Vec<&str> = measured
        .iter()
        .filter(|row| row.is_emulated)
        .map(|row| row.row.as_str())
        .collect();
    if !emulated.is_empty() {
        println!(
            "in a VM, which may be emulated, so that only ratios count: {}",
            emulated.join(", ")
        );
    }
}

fn print_figure(row: &str, figure: &Figure) {
    let other = figure.other.as_ref();
    let ratio = figure
        .ratio()
        .map_or_else(String::new, |ratio| format!("{ratio:.3}"));
    let target = match figure.target {
        Some(Target::Ratio(ratio)) => format!("<= {ratio:.3}"),
        Some(Target::Value(value)) => format!("{value} {}", figure.unit),
        None => String::new(),
    };
    let verdict = match figure.is_met() {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "",
    };
    let line = format!(
        "{row:25} {:24} {:>9} {:>9}  {:26} {ratio:>6}  {target:>8} {verdict}",
        with_unit(figure),
        number(figure.ours),
        other.map_or_else(String::new, |other| number(other.value)),
        other.map_or("", |other| other.name.as_str()),
    );
    println!("{}", line.trim_end());
}

fn with_unit(figure: &Figure) -> String {
    match figure.unit.as_str() {
        "" => figure.what.clone(),
        unit => format!("{}, {unit}", figure.what),
    }
}

fn print_curve(row: &str, curve: &Curve) {
    let point = |(x, y): &(f64, f64)| format!("{x}: {}", number(*y));
    let points: Vec<String> = curve.points.iter().map(point).collect();
    println!(
        "{row:25} {} of {}, {}, by {}: {}",
        curve.what,
        curve.party,
        curve.unit,
        curve.of,
        points.join("  ")
    );
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// Writes `figures.json`.
pub fn write(measured: &[Measured], machine: &Machine, directory: &Path) {
    let with_verdicts = measured.iter().map(|row| {
        let mut document = serde_json::to_value(row).expect("figures are numbers");
        for (figure, of) in row.report.figures.iter().enumerate() {
            let document = &mut document["figures"][figure];
            document["ratio"] = json!(of.ratio());
            document["isMet"] = json!(of.is_met());
        }
        document
    });
    let document = json!({
        "machine": machine,
        "rows": with_verdicts.collect::<Vec<_>>(),
    });
    let path = directory.join("figures.json");
    fs::write(&path, format!("{document:#}\n"))
        .unwrap_or_else(|cause| panic!("cannot write {path:?}: {cause}"));
}
