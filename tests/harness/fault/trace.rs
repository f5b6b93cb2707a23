//! A call of a plugin in which one system call has a fault. The system calls of all its
//! processes and threads, including delegates, are counted together, so that a number
//! identifies each of them. strace is not used, because it counts each process separately.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::system_call::SystemCall;
use crate::{Call, Output};

/// A shell script that reports that it runs, waits until it is traced, and executes the
/// program.
const WAIT_AND_EXECUTE: &str = r#"echo && read -r _ && exec "$0" "$@""#;
/// The value of `op` in `ptrace_syscall_info` at the entry of a system call.
const ENTRY: u8 = 1;
const STDIN: u64 = 0;
/// How many system calls of a kind are counted for [`Fault::Lasting`]: a thread that is started
/// asks for memory several times.
const MOST_OF_A_KIND: usize = 3;

/// The fault of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed before the call has an effect.
    Kill,
    /// All processes of the plugin's call are killed at that moment, as by a power loss.
    Crash,
    /// The system call has no effect and returns this error.
    Error(Errno),
    /// The same for this and every later system call of its kind, in every process. Before the
    /// plugin reads its configuration nothing fails: until then its program is being started.
    Lasting(Errno),
}

/// Which system calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// All system calls.
    All,
    /// Those with an effect that other processes can see, or that wait for other processes.
    Changing,
    /// Those that write to a file.
    Writes,
}

/// Which system call has a fault, and which fault.
#[derive(Debug, Clone, Copy)]
pub struct Strike {
    /// The fault.
    pub fault: Fault,
    /// Which system calls are counted. For [`Fault::Error`], those that may return the error
    /// are counted instead, for [`Fault::Lasting`] the first ones of each kind that may lack
    /// something.
    pub counted: Counted,
    /// The number of the system call among the counted ones, from 1.
    pub nth: usize,
}

/// The outcome of a call with a fault.
#[derive(Debug)]
pub struct Struck {
    /// The outcome of the call.
    pub output: Output,
    /// The system call with the fault; `None` when there were fewer system calls.
    pub hit: Option<SystemCall>,
}

impl Strike {
    /// A kill before the `nth` system call that has an effect.
    pub fn kill(nth: usize) -> Self {
        Self {
            fault: Fault::Kill,
            counted: Counted::Changing,
            nth,
        }
    }

    fn counts(&self, call: SystemCall) -> bool {
        match self.fault {
            Fault::Error(error) => call.may_return(error),
            Fault::Lasting(error) => call.may_lack(error),
            Fault::Kill | Fault::Crash => match self.counted {
                Counted::All => true,
                Counted::Changing => call.is_changing(),
                Counted::Writes => call.is_write(),
            },
        }
    }
}

/// Executes the call with a fault, in the namespaces of this thread, which must have no other
/// children.
#[expect(
    clippy::zombie_processes,
    reason = "the tracer waits for it, and for all that it starts"
)]
pub fn strike(call: &Call, strike: Strike) -> Struck {
    let mut child = start(call);
    let root = pid_of(&child);
    let follow = Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_EXITKILL;
    let mut stdout = child.stdout.take().expect("it is a pipe");
    stdout
        .read_exact(&mut [0])
        .expect("the shell says that it runs");
    ptrace::seize(root, follow).expect("a child can be traced");
    let stdout = read_all(stdout);
    let stderr = read_all(child.stderr.take().expect("it is a pipe"));
    let mut pipe = child.stdin.take().expect("it is a pipe");
    let input = [b"\n", call.input()].concat();
    // A plugin that is killed does not read all of it.
    let writer = thread::spawn(move || pipe.write_all(&input).ok());

    let mut tracer = Tracer::new(root, strike);
    tracer.run();
    writer.join().expect("the writer ends");
    let output = Output {
        call: call.clone(),
        status: tracer.status,
        stdout: stdout.join().expect("the reader ends"),
        stderr: stderr.join().expect("the reader ends"),
    };
    Struck {
        output,
        hit: tracer.hit,
    }
}

fn start(call: &Call) -> Child {
    let process = call.process();
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", WAIT_AND_EXECUTE])
        .arg(process.get_program())
        .args(process.get_args());
    shell.env_clear();
    let variables = process.get_envs();
    shell.envs(variables.filter_map(|(name, value)| Some((name, value?))));
    shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("there is a shell")
}

fn read_all(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a pipe can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process has a number"))
}

/// How far the start of a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// The shell waits.
    Shell,
    /// The program is executed.
    Program,
    /// It reads its configuration, or has done so.
    Plugin,
}

/// The processes and threads of a call, and the number of counted system calls.
struct Tracer {
    root: Pid,
    strike: Strike,
    alive: BTreeSet<Pid>,
    counted: usize,
    hit: Option<SystemCall>,
    /// The processes whose system call returns an error when it ends.
    failing: BTreeMap<Pid, Errno>,
    /// For [`Fault::Lasting`]: how many system calls of each kind were counted.
    kinds: BTreeMap<u64, usize>,
    /// The same: whether the program is executed, and reads its configuration.
    start: Start,
    status: Option<i32>,
}

impl Tracer {
    fn new(root: Pid, strike: Strike) -> Self {
        Self {
            root,
            strike,
            alive: BTreeSet::from([root]),
            counted: 0,
            hit: None,
            failing: BTreeMap::new(),
            kinds: BTreeMap::new(),
            start: Start::Shell,
            status: None,
        }
    }

    /// Runs until the last process has ended.
    fn run(&mut self) {
        let mine = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            match waitpid(None, Some(mine)) {
                Ok(WaitStatus::Exited(pid, status)) => self.end(pid, Some(status)),
                Ok(WaitStatus::Signaled(pid, ..)) => self.end(pid, None),
                Ok(WaitStatus::PtraceSyscall(pid)) => {
                    self.stop(pid);
                    resume(pid, None);
                }
                Ok(WaitStatus::Stopped(pid, signal)) => resume(pid, Some(signal)),
                Ok(WaitStatus::PtraceEvent(pid, _, event)) => {
                    self.alive.insert(pid);
                    if event == libc::PTRACE_EVENT_EXEC && self.start == Start::Shell {
                        self.start = Start::Program;
                    }
                    resume(pid, None);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return,
                Err(errno) => panic!("cannot wait for what is traced: {errno}"),
            }
        }
    }

    fn end(&mut self, pid: Pid, status: Option<i32>) {
        self.alive.remove(&pid);
        if pid == self.root {
            self.status = status;
        }
    }

    /// Handles a process that stopped before or after a system call.
    fn stop(&mut self, pid: Pid) {
        // This fails for a process that was killed meanwhile.
        let Ok(info) = ptrace::syscall_info(pid) else {
            return;
        };
        if info.op != ENTRY {
            if let Some(errno) = self.failing.remove(&pid) {
                registers::answer(pid, errno);
            }
            return;
        }
        let Some((call, first)) = registers::system_call(pid) else {
            return;
        };
        let is_error = matches!(self.strike.fault, Fault::Error(_) | Fault::Lasting(_));
        if !self.strike.counts(call) || is_error && is_within_kernel(pid, first) {
            return;
        }
        if let Fault::Lasting(errno) = self.strike.fault {
            return self.stop_lasting(pid, (call, first), errno);
        }
        self.counted += 1;
        if self.counted == self.strike.nth {
            self.hit = Some(call);
            self.hit(pid);
        }
    }

    /// The same for a fault that lasts.
    fn stop_lasting(&mut self, pid: Pid, (call, first): (SystemCall, u64), errno: Errno) {
        if self.start == Start::Program && pid == self.root && call.is_read() && first == STDIN {
            self.start = Start::Plugin;
        }
        if self.start != Start::Plugin {
            return;
        }
        if self.hit.is_none() {
            let seen = self.kinds.entry(call.number).or_default();
            *seen += 1;
            if *seen > MOST_OF_A_KIND {
                return;
            }
            self.counted += 1;
            if self.counted == self.strike.nth {
                self.hit = Some(call);
            }
        }
        if self.hit.is_some_and(|hit| hit.number == call.number) {
            registers::skip(pid);
            self.failing.insert(pid, errno);
        }
    }

    fn hit(&mut self, pid: Pid) {
        match self.strike.fault {
            Fault::Kill => end_process(pid),
            Fault::Crash => self.alive.iter().copied().for_each(end_process),
            Fault::Error(errno) | Fault::Lasting(errno) => {
                registers::skip(pid);
                self.failing.insert(pid, errno);
            }
        }
    }
}

/// Whether a descriptor is an object in the kernel's memory, such as an eventfd, on which no
/// error can occur.
fn is_within_kernel(pid: Pid, descriptor: u64) -> bool {
    let target = fs::read_link(format!("/proc/{pid}/fd/{descriptor}"));
    target.is_ok_and(|target| target.display().to_string().starts_with("anon_inode:"))
}

fn end_process(pid: Pid) {
    match kill(pid, Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => panic!("cannot kill {pid}: {errno}"),
    }
}

fn resume(pid: Pid, signal: Option<Signal>) {
    match ptrace::syscall(pid, signal) {
        // It was killed while it was stopped.
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => panic!("cannot resume {pid}: {errno}"),
    }
}

/// The processor's registers with the system call, its arguments and its result.
#[cfg(target_arch = "x86_64")]
mod registers {
    use nix::errno::Errno;
    use nix::sys::ptrace;
    use nix::unistd::Pid;

    use super::SystemCall;

    /// A system call and its first argument; `None` when the process was killed meanwhile.
    pub(super) fn system_call(pid: Pid) -> Option<(SystemCall, u64)> {
        let registers = ptrace::getregs(pid).ok()?;
        let call = SystemCall {
            number: registers.orig_rax,
            third: registers.rdx,
        };
        Some((call, registers.rdi))
    }

    /// Replaces the number of the system call by an invalid one, so that it has no effect.
    pub(super) fn skip(pid: Pid) {
        if let Ok(mut registers) = ptrace::getregs(pid) {
            registers.orig_rax = u64::MAX;
            ptrace::setregs(pid, registers).expect("it is stopped");
        }
    }

    pub(super) fn answer(pid: Pid, errno: Errno) {
        if let Ok(mut registers) = ptrace::getregs(pid) {
            registers.rax = u64::from((errno as i32).unsigned_abs()).wrapping_neg();
            ptrace::setregs(pid, registers).expect("it is stopped");
        }
    }
}

/// On arm64 the number of a system call can be changed only through registers that nix does not
/// support. So system calls can be counted here, but cannot fail.
#[cfg(target_arch = "aarch64")]
mod registers {
    use nix::errno::Errno;
    use nix::sys::ptrace;
    use nix::unistd::Pid;

    use super::SystemCall;

    const MISSING: &str = "errors of system calls are injected on x86_64 only: run this test there";

    pub(super) fn system_call(pid: Pid) -> Option<(SystemCall, u64)> {
        let registers = ptrace::getregs(pid).ok()?;
        let call = SystemCall {
            number: registers.regs[8],
            third: registers.regs[2],
        };
        Some((call, registers.regs[0]))
    }

    pub(super) fn skip(_: Pid) {
        panic!("{MISSING}");
    }

    pub(super) fn answer(_: Pid, _: Errno) {
        panic!("{MISSING}");
    }
}
