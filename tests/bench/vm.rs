//! The part that needs another kernel: this program in the VM of the tests, whose writes
//! do not leave it. What it measures comes back as lines of JSON.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

use harness::{Namespace, repository};

use crate::figure::Measured;
use crate::options::Options;
use crate::rows::Row;

/// What a line begins with that has a row's figures.
const MARK: &str = "bench-measured: ";

/// Whether the kernel of this machine lacks what a row needs.
pub fn is_needed_for(row: &Row) -> bool {
    row.needs_ipvlan && !has_ipvlan()
}

fn has_ipvlan() -> bool {
    let netns = Namespace::new();
    let links: [&[&str]; 2] = [
        &["link", "add", "d", "type", "dummy"],
        &["link", "add", "link", "d", "type", "ipvlan"],
    ];
    links
        .iter()
        .all(|arguments| netns.try_tool("ip", arguments).status.success())
}

/// Measures rows in the VM, which starts when the first of them is wanted.
pub fn measure(rows: &[Row], options: &Options) -> impl Iterator<Item = Measured> {
    let arguments = (!rows.is_empty()).then(|| options.for_vm(rows));
    arguments
        .into_iter()
        .flat_map(|arguments| Vm::start(&arguments))
}

/// This program in a VM, and what it measures.
struct Vm {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Vm {
    fn start(arguments: &[String]) -> Self {
        let own = std::env::current_exe().expect("a program knows where it is");
        let run = repository().join("tests/vm/run");
        let mut command = Command::new(&run);
        command.arg("--").arg(own).args(arguments);
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut process = started.unwrap_or_else(|cause| panic!("cannot execute {run:?}: {cause}"));
        let stdout = process.stdout.take().expect("it is piped");
        let lines = BufReader::new(stdout).lines();
        Self { process, lines }
    }
}

impl Iterator for Vm {
    type Item = Measured;

    fn next(&mut self) -> Option<Measured> {
        for line in self.lines.by_ref() {
            let line = line.expect("the VM prints text");
            match line.strip_prefix(MARK) {
                Some(text) => return Some(serde_json::from_str(text).expect("it is a row")),
                None => eprintln!("{line}"),
            }
        }
        let status = self.process.wait().expect("the VM can be waited for");
        assert!(status.success(), "measuring in the VM failed: {status}");
        None
    }
}

/// Tells the program outside of the VM what was measured.
pub fn answer(measured: impl Iterator<Item = Measured>) {
    for row in measured {
        let text = serde_json::to_string(&row).expect("figures are numbers");
        println!("{MARK}{text}");
    }
}
