//! What repeats exactly, or nearly: system calls, instructions and memory of a call.
//! Counting slows a process down, so nothing is timed here.

use std::fs;
use std::path::PathBuf;

use harness::Call;

use crate::figure::Figure;
use crate::samples::{BOTH, Party};

/// Megabytes that a plugin should have at most.
const PEAK_MEMORY: f64 = 2.5;

/// The system calls of a call and its delegates, by `strace`.
pub fn system_calls(call: &Call) -> f64 {
    let file = tempfile::NamedTempFile::new().expect("there can be a temporary file");
    let path = file.path().to_str().expect("its name is text");
    call.run_under(
        "strace",
        &["-f", "-qq", "-c", "-U", "calls,name", "-o", path],
    );
    let table = fs::read_to_string(path).expect("strace has written");
    let total = table.lines().find(|line| line.ends_with(" total"));
    let count = total.and_then(|line| line.split_whitespace().next()?.parse().ok());
    count.unwrap_or_else(|| panic!("strace has counted nothing; run `tests/prepare`\n{table}"))
}

/// The instructions that a plugin executes outside of the kernel, in thousands, without
/// its delegates, by Valgrind, which cannot execute what Go's compiler makes.
pub fn instructions(call: &Call) -> f64 {
    let file = tempfile::NamedTempFile::new().expect("there can be a temporary file");
    let path = file.path().to_str().expect("its name is text");
    let log = format!("--log-file={path}");
    let options = ["--tool=callgrind", "--callgrind-out-file=/dev/null", &log];
    call.run_under("valgrind", &options);
    let log = fs::read_to_string(path).expect("valgrind has written");
    let collected = log.lines().find_map(|line| line.split_once("Collected :"));
    let count: Option<f64> = collected.and_then(|(_, count)| count.trim().parse().ok());
    let count = count.unwrap_or_else(|| {
        panic!("valgrind has counted nothing; run `tests/prepare bench`\n{log}")
    });
    count / 1000.0
}

/// The memory that a call has at most, in megabytes. The larger of plugin and delegate
/// counts.
pub fn peak_memory(call: &Call) -> f64 {
    let file = tempfile::NamedTempFile::new().expect("there can be a temporary file");
    let path = file.path().to_str().expect("its name is text");
    let program = built("peak");
    call.run_under(program.to_str().expect("its name is text"), &[path]);
    let text = fs::read_to_string(path).expect("it has written");
    let kilobytes: f64 = text.trim().parse().expect("it is a number");
    kilobytes / 1024.0
}

/// A program that was built together with this one.
pub fn built(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a program knows where it is");
    let program = own.with_file_name(name);
    assert!(
        program.is_file(),
        "{program:?} is missing: run `make bench`"
    );
    program
}

/// What is counted of ADD and DEL. `at` executes one of them for a party, under the
/// counter that it is given, where that party's work is done.
pub fn attachment(at: impl Fn(Party, &'static str, fn(&Call) -> f64) -> f64) -> Vec<Figure> {
    let commands = ["ADD", "DEL"];
    let both = |what: &str, unit: &str, counter: fn(&Call) -> f64| {
        let [ours, go] = BOTH.map(|party| commands.map(|command| at(party, command, counter)));
        let figure = |n: usize| {
            Figure::new(format!("{} {what}", commands[n]), unit, ours[n]).beside("Go", go[n])
        };
        [figure(0), figure(1)]
    };
    let memory = both("peak memory", "MB", peak_memory).map(|figure| figure.at_most(PEAK_MEMORY));
    let instructions = commands.map(|command| {
        let count = at(Party::Ours, command, instructions);
        Figure::new(format!("{command} instructions"), "thousands", count)
    });
    let calls = both("system calls", "", system_calls);
    calls
        .into_iter()
        .chain(instructions)
        .chain(memory)
        .collect()
}
