//! The agent of eni-sync on a node, started and stopped as by a service manager.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::eni_lab::CANARY;
use crate::{Call, Node, log};

/// The deadline for events that take milliseconds, on a very busy machine.
const DEADLINE: Duration = Duration::from_secs(180);

/// A node of a simulated VPC, on which an agent can run.
pub trait Host {
    /// The node.
    fn node(&self) -> &Node;

    /// The directory that its plugins see as `/run`.
    fn run_directory(&self) -> &Path;

    /// A command of `eni-sync` whose endpoints are those of the simulated AWS.
    fn eni_sync(&self) -> Call;
}

/// The outcome of a system call, which is made again when it was interrupted. A socket with a deadline
/// is not read on by itself then: signal(7).
///
/// # Errors
/// Those of the system call.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// An agent on a node; it is killed when this value is dropped.
#[derive(Debug)]
pub struct Agent {
    process: Child,
    log: PathBuf,
}

impl Agent {
    /// Starts an agent, and waits until it reports that it is ready.
    #[track_caller]
    pub fn start(node: &impl Host, configuration: &Value) -> Self {
        let path = node.run_directory().join("notify.sock");
        fs::remove_file(&path).ok();
        let notify = UnixDatagram::bind(&path).expect("a socket can be bound");
        notify
            .set_read_timeout(Some(DEADLINE))
            .expect("a socket has deadlines");
        let agent = Self::spawn(node, configuration);
        let mut message = [0; 64];
        let length = match uninterrupted(|| notify.recv(&mut message)) {
            Ok(length) => length,
            Err(cause) => panic!("the agent is not ready: {cause}\n{}", agent.log()),
        };
        assert!(message[..length].starts_with(b"READY=1"));
        agent
    }

    /// Starts an agent without waiting; it may end by itself.
    #[track_caller]
    pub fn spawn(node: &impl Host, configuration: &Value) -> Self {
        Self::spawn_as(node.eni_sync().process(), node, configuration)
    }

    /// Starts an agent that is killed when one of its threads makes the `nth` system call among
    /// those that change a file or send a request to EC2.
    #[track_caller]
    pub fn spawn_to_be_killed(node: &impl Host, configuration: &Value, nth: usize) -> Self {
        let calls = "?rename,?renameat,?renameat2,fsync,?unlink,?unlinkat,sendto,?writev";
        Self::spawn_with_fault(
            node,
            configuration,
            (calls, &format!("signal=KILL:when={nth}")),
        )
    }

    /// Starts an agent whose system calls `calls` fail as `how` says, both in the syntax of
    /// `strace -e inject`.
    #[track_caller]
    pub fn spawn_with_fault(
        node: &impl Host,
        configuration: &Value,
        (calls, how): (&str, &str),
    ) -> Self {
        let inject = format!("inject={calls}:{how}");
        // With -D the tracer is not the parent, so a wait for the child is a wait for the
        // agent.
        let arguments = ["-D", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
        let command = node.eni_sync().process_under("strace", &arguments);
        Self::spawn_as(command, node, configuration)
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().expect("it is a child").is_some()
    }

    #[track_caller]
    fn spawn_as(mut command: Command, node: &impl Host, configuration: &Value) -> Self {
        let path = node.run_directory().join("agent.json");
        fs::write(&path, configuration.to_string()).expect("the file can be written");
        command
            .args(["agent", "--config", "/run/agent.json"])
            .env("NOTIFY_SOCKET", "/run/notify.sock")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let log = node.run_directory().join("agent.log");
        let output = File::options().create(true).append(true).open(&log);
        command.stderr(output.expect("the file can be opened"));
        let process = node
            .node()
            .inside(|| command.spawn().expect("the program can be executed"));
        Self { process, log }
    }

    /// The id of its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends SIGTERM as a service manager does, waits for its end, and returns its exit status.
    pub fn stop(mut self) -> Option<i32> {
        let id = i32::try_from(self.process.id()).expect("a process id is a pid_t");
        kill(Pid::from_raw(id), Signal::SIGTERM).expect("it is a child");
        self.process.wait().expect("it is a child").code()
    }

    /// Sends SIGKILL, as a crash would end it.
    pub fn kill(mut self) {
        self.process.kill().expect("it is a child");
        self.process.wait().expect("it is a child");
    }

    /// Waits until it ends by itself. Returns its exit status and its log.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let status = self.process.wait().expect("it is a child").code();
        let said = self.log();
        (status, said)
    }

    /// The log of this agent and of earlier ones on its node: a line for each event.
    pub fn log(&self) -> String {
        log::messages(&self.raw_log())
    }

    /// The same log, as the JSON objects of the events.
    pub fn events(&self) -> Vec<Value> {
        log::events(&self.raw_log())
    }

    /// The same log, as it was written.
    pub fn raw_log(&self) -> String {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        assert!(!said.contains(CANARY), "a secret was printed\n{said}");
        said
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the agent's log\n{}", self.raw_log());
        }
        // It may have ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
