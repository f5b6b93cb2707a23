//! The agent of eni-sync on a node, as a service manager runs it.

use std::fs::{self, File};
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

/// For what happens in milliseconds, on a machine that is very busy.
const DEADLINE: Duration = Duration::from_secs(180);

/// A node of a simulated VPC, where an agent can be.
pub trait Host {
    /// The node.
    fn node(&self) -> &Node;

    /// What its plugins see as `/run`.
    fn run_directory(&self) -> &Path;

    /// A command of `eni-sync` that reaches the simulated AWS.
    fn eni_sync(&self) -> Call;
}

/// An agent that runs on a node until this value is dropped.
#[derive(Debug)]
pub struct Agent {
    process: Child,
    log: PathBuf,
}

impl Agent {
    /// Starts an agent and waits until it says that it is ready.
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
        let length = match notify.recv(&mut message) {
            Ok(length) => length,
            Err(cause) => panic!("the agent is not ready: {cause}\n{:?}", agent.wait()),
        };
        assert!(message[..length].starts_with(b"READY=1"));
        agent
    }

    /// Starts an agent that may end by itself.
    #[track_caller]
    pub fn spawn(node: &impl Host, configuration: &Value) -> Self {
        Self::spawn_as(node.eni_sync().process(), node, configuration)
    }

    /// Starts an agent that is killed when a thread of it makes the system call with this number,
    /// of those that change a file or ask EC2.
    #[track_caller]
    pub fn spawn_to_be_killed(node: &impl Host, configuration: &Value, nth: usize) -> Self {
        let calls = "?rename,?renameat,?renameat2,fsync,?unlink,?unlinkat,sendto,?writev";
        Self::spawn_with_fault(
            node,
            configuration,
            (calls, &format!("signal=KILL:when={nth}")),
        )
    }

    /// Starts an agent whose system calls of these names go wrong, as `strace` has it.
    #[track_caller]
    pub fn spawn_with_fault(
        node: &impl Host,
        configuration: &Value,
        (calls, how): (&str, &str),
    ) -> Self {
        let inject = format!("inject={calls}:{how}");
        // The tracer is not the parent: whoever waits for the agent, waits for itself.
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

    /// Ends it as a service manager does, and returns its status.
    pub fn stop(mut self) -> Option<i32> {
        let id = i32::try_from(self.process.id()).expect("a process id is a pid_t");
        kill(Pid::from_raw(id), Signal::SIGTERM).expect("it is a child");
        self.process.wait().expect("it is a child").code()
    }

    /// Ends it as a crash does.
    pub fn kill(mut self) {
        self.process.kill().expect("it is a child");
        self.process.wait().expect("it is a child");
    }

    /// Waits until it ends by itself: its status and what it has said.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let status = self.process.wait().expect("it is a child").code();
        let said = self.log();
        (status, said)
    }

    /// What it has said so far, and those before it on its node: a line for each event.
    pub fn log(&self) -> String {
        log::messages(&self.raw_log())
    }

    /// The same with all that the events have.
    pub fn events(&self) -> Vec<Value> {
        log::events(&self.raw_log())
    }

    /// The same as it was written.
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
