//! Plugins as processes, started as a runtime starts them, and what a work costs that
//! consists of processes.

use std::io::{PipeReader, Read, Write, pipe};
use std::ops::Add;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use harness::Call;
use nix::sys::resource::{Usage, UsageWho, getrusage};

/// What a work took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// From its beginning to its end.
    pub wall: Duration,
    /// Time of any CPU, in programs and in the kernel.
    pub cpu: Duration,
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            wall: self.wall + other.wall,
            cpu: self.cpu + other.cpu,
        }
    }
}

/// Does `work`, which waits for every process that it starts: what these cost, and what
/// it returned.
pub fn cost_of_processes<T>(work: impl FnOnce() -> T) -> (Cost, T) {
    cost(UsageWho::RUSAGE_CHILDREN, work)
}

/// Does `work`, which starts no process: what the calling thread's part of it costs.
pub fn cost_of_thread<T>(work: impl FnOnce() -> T) -> (Cost, T) {
    cost(UsageWho::RUSAGE_THREAD, work)
}

fn cost<T>(who: UsageWho, work: impl FnOnce() -> T) -> (Cost, T) {
    let before = cpu(who);
    let began = Instant::now();
    let done = work();
    let wall = began.elapsed();
    let cpu = cpu(who).saturating_sub(before);
    (Cost { wall, cpu }, done)
}

fn cpu(who: UsageWho) -> Duration {
    let usage: Usage = getrusage(who).expect("the kernel counts what is used");
    let used = usage.user_time() + usage.system_time();
    let microseconds = used.tv_sec() * 1_000_000 + used.tv_usec();
    Duration::from_micros(microseconds.unsigned_abs())
}

/// The page faults of a call, which must succeed, and of its delegates.
#[expect(clippy::cast_precision_loss, reason = "there are some hundreds")]
pub fn page_faults(call: &Call) -> f64 {
    let count = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the kernel counts what is used");
        usage.minor_page_faults()
    };
    let before = count();
    Process::of(call).end().ok();
    (count() - before) as f64
}

/// A process that has its input and no more than that to wait for.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: PipeReader,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    pub status: Option<i32>,
    pub stdout: String,
}

impl Process {
    /// Starts the plugin in the namespaces of the calling thread.
    pub fn of(call: &Call) -> Self {
        Self::start(call.process(), call.input())
    }

    /// Starts `command` with this input, which is shorter than what a pipe takes.
    pub fn start(mut command: Command, input: &[u8]) -> Self {
        let (stdin, mut writer) = pipe().expect("there can be a pipe");
        let (stdout, answer) = pipe().expect("there can be a pipe");
        writer.write_all(input).expect("the pipe takes the input");
        drop(writer);
        command.stdin(stdin).stdout(answer);
        let child = command
            .spawn()
            .unwrap_or_else(|cause| panic!("cannot execute {command:?}: {cause}"));
        // The command has the pipe's other end as long as it lives.
        drop(command);
        Self { child, stdout }
    }

    /// Waits for its end. What it prints must be shorter than what a pipe takes.
    pub fn end(mut self) -> Ended {
        let status = self.child.wait().expect("it can be waited for");
        let mut stdout = String::new();
        let read = self.stdout.read_to_string(&mut stdout);
        read.expect("it prints text");
        Ended {
            status: status.code(),
            stdout,
        }
    }
}

impl Ended {
    /// What a process printed that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, Some(0), "a call failed: {}", self.stdout);
        self.stdout
    }
}

/// Executes a call, which must succeed: what it costs and what it printed.
#[track_caller]
pub fn run(call: &Call) -> (Cost, String) {
    let (cost, ended) = cost_of_processes(|| Process::of(call).end());
    (cost, ended.ok())
}
