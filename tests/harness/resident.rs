//! Processes that only keep a network namespace alive.

use std::io::Read;
use std::process::{Child, Command, Stdio};

/// Definitions for the programs of [`Resident::holding`]: `path` of the namespace, `stay`, which
/// reports that the program is ready, `in_thread`, `stay_without_leader`, after which the first
/// thread has ended, and `socket_inside`, a socket of the namespace for a process that is not in it.
const PRELUDE: &str = "
import ctypes, os, socket, sys, threading
libc = ctypes.CDLL(None)
path = sys.argv[1]
def stay():
    print(flush=True)
    sys.stdin.read()
def in_thread(work):
    threading.Thread(target=work).start()
def stay_without_leader():
    def work():
        leader = f'/proc/self/task/{os.getpid()}/stat'
        while open(leader).read().split()[2] != 'Z':
            os.sched_yield()
        stay()
    in_thread(work)
    libc.syscall(93 if os.uname().machine == 'aarch64' else 60, 0)  # exit(2) of this thread
def socket_inside():
    own, fd = (os.open(of, os.O_RDONLY) for of in ['/proc/self/ns/net', path])
    assert libc.setns(fd, 0) == 0
    inside = socket.socket(socket.AF_UNIX)
    assert libc.setns(own, 0) == 0
    os.close(fd)
    return inside
";

/// A process that waits in a network namespace, until this value is dropped.
#[derive(Debug)]
pub struct Resident(Child);

impl Resident {
    /// Starts a process in a new namespace.
    pub fn alone() -> Self {
        Self::start("unshare", &["--net"])
    }

    /// Starts a process in the namespace at this path.
    pub fn inside(netns: &str) -> Self {
        Self::start("nsenter", &[&format!("--net={netns}")])
    }

    /// Starts a process outside of the namespace at this path. The Python program keeps the
    /// namespace alive.
    pub fn holding(netns: &str, program: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", &format!("{PRELUDE}{program}"), netns]);
        Self::of(command)
    }

    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .args(["sh", "-c", "echo && exec cat"]);
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program is installed");
        // Its first output shows that it has started.
        let stdout = child.stdout.as_mut().expect("it is a pipe");
        stdout
            .read_exact(&mut [0])
            .expect("the process has started");
        Self(child)
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The path of its namespace.
    pub fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.0.kill().expect("it is a child");
        self.0.wait().expect("it is a child");
    }
}
