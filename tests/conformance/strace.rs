//! Calls under `strace`, which counts their system calls and kills them at one.

use harness::{Call, Output};

/// How often a call is killed.
const POINTS: u64 = 8;

/// What the points are drawn with, so that every run has the same.
const SEED: u64 = 63;

/// Where strace keeps what it has seen: the file that its stderr is.
const REPORT: &str = "/proc/self/fd/2";

/// Runs a call, which must succeed, and counts the system calls of the thread that makes
/// the most.
pub(crate) fn count(call: &Call) -> u64 {
    let output = call.run_under("strace", &["-f", "-qq", "-o", REPORT]);
    let mut counts = std::collections::BTreeMap::<&str, u64>::new();
    for line in output.stderr.lines() {
        let thread = line.split_whitespace().next().unwrap_or_default();
        *counts.entry(thread).or_default() += 1;
    }
    counts.into_values().max().unwrap_or_default().max(1)
}

/// Numbers of system calls, of `count`, at which to kill; the last one is the end of
/// the process.
pub(crate) fn points(count: u64) -> Vec<u64> {
    let mut state = SEED;
    let mut draw = || {
        // Knuth's MMIX generator, whose upper bits are the good ones.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % count + 1
    };
    let mut points: Vec<u64> = (1..POINTS).map(|_| draw()).collect();
    points.push(count);
    points.sort_unstable();
    points.dedup();
    points
}

/// Runs a call and kills the first process of it that makes its nth system call.
pub(crate) fn killed_at(call: &Call, nth: u64) -> Output {
    let inject = format!("inject=all:signal=KILL:when={nth}");
    call.run_under("strace", &["-f", "-qq", "-o", "/dev/null", "-e", &inject])
}
