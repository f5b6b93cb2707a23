//! Runs another program with a deadline, and collects its whole output.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::libc::ETXTBSY;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How many bytes can be written without blocking to a pipe that poll(2) reports as ready.
/// Source: pipe(7); `PIPE_BUF` of Linux.
const PIPE_BUF: usize = 4096;

/// How many bytes of a program's stdout are read, and of its stderr kept: far more than a result or
/// an error has.
const LIMIT: usize = 8 << 20;

/// How long to wait for another process that is writing the executable.
const INSTALLATION: Duration = Duration::from_secs(5);

/// The outcome of a program that has ended.
#[derive(Debug)]
pub struct Output {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr: the first 8 MiB.
    pub stderr: Vec<u8>,
}

/// Runs a process with `stdin` as its input, and kills it after `deadline`. Its pipes are
/// read and written as they become ready, so that a program that reads nothing or writes
/// much cannot block the caller.
///
/// # Errors
/// Errors of starting the process and of its pipes, `TimedOut`, and `InvalidData` if it writes more
/// than 8 MiB to stdout. The process is killed before the error is returned.
pub fn run(mut command: Command, stdin: &[u8], deadline: Duration) -> io::Result<Output> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn(&mut command, INSTALLATION)?;
    match serve(&mut child, stdin, deadline) {
        Ok([stdout, stderr]) => Ok(Output {
            status: child.wait()?,
            stdout,
            stderr,
        }),
        Err(cause) => Err(stop(&mut child, cause)),
    }
}

/// Reads and writes the pipes of `child` until it has ended, and returns its stdout and
/// stderr.
fn serve(child: &mut Child, stdin: &[u8], deadline: Duration) -> io::Result<[Vec<u8>; 2]> {
    let end = Instant::now() + deadline;
    let late = || {
        let answer = format!("no answer within {} s", deadline.as_secs_f32());
        io::Error::new(io::ErrorKind::TimedOut, answer)
    };
    let mut input = Input {
        pipe: child.stdin.take(),
        unsent: stdin,
    };
    let mut stdout = Collected::from(child.stdout.take());
    let mut stderr = Collected::from(child.stderr.take());
    input.feed();
    while stdout.is_open() || stderr.is_open() {
        let pipes = [input.as_poll(), stdout.as_poll(), stderr.as_poll()];
        let [takes_input, has_stdout, has_stderr] = await_ready(pipes, end)?.ok_or_else(late)?;
        if takes_input {
            input.feed();
        }
        if has_stdout {
            stdout.read()?;
        }
        if stdout.bytes.len() > LIMIT {
            let msg = format!("it has written more than {} MiB to stdout", LIMIT >> 20);
            return Err(io::Error::new(io::ErrorKind::InvalidData, msg));
        }
        if has_stderr {
            stderr.read()?;
        }
    }
    // A program may close its pipes and continue to run. Kernels before 5.3 have no
    // descriptor of a process.
    if let Ok(process) = pidfd_open(Pid::from_child(child), PidfdFlags::empty()) {
        let ended = PollFd::new(process.as_fd(), PollFlags::POLLIN);
        await_ready([Some(ended)], end)?.ok_or_else(late)?;
    }
    Ok([stdout.bytes, stderr.bytes])
}

/// The pipe to the stdin of a program, open until everything is written.
struct Input<'a> {
    pipe: Option<ChildStdin>,
    unsent: &'a [u8],
}

impl Input<'_> {
    fn as_poll(&self) -> Option<PollFd<'_>> {
        let pipe = self.pipe.as_ref()?;
        Some(PollFd::new(pipe.as_fd(), PollFlags::POLLOUT))
    }

    /// Writes as much as the pipe takes without blocking. The pipe has to be ready; a new
    /// one is.
    fn feed(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let (part, rest) = self.unsent.split_at(self.unsent.len().min(PIPE_BUF));
        // A program may exit without reading its input; that is not an error.
        let is_taken = pipe.write_all(part).is_ok();
        self.unsent = rest;
        if !is_taken || rest.is_empty() {
            self.pipe = None;
        }
    }
}

/// What a program has written into a pipe so far, and the pipe until the program closes
/// it.
struct Collected<P> {
    pipe: Option<P>,
    bytes: Vec<u8>,
}

impl<P: Read + AsFd> Collected<P> {
    fn from(pipe: Option<P>) -> Self {
        let bytes = Vec::new();
        Self { pipe, bytes }
    }

    fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    fn as_poll(&self) -> Option<PollFd<'_>> {
        let pipe = self.pipe.as_ref()?;
        Some(PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
    }

    /// Reads from the pipe, which has to be ready.
    fn read(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else {
            return Ok(());
        };
        let mut part = [0; PIPE_BUF];
        match pipe.read(&mut part)? {
            0 => self.pipe = None,
            count if self.bytes.len() <= LIMIT => self.bytes.extend_from_slice(&part[..count]),
            // It goes on, and nobody wants to read so much.
            _ => {}
        }
        Ok(())
    }
}

/// Waits until one of the open pipes can be used without blocking or was closed by the
/// program, and returns which ones. `None` when there is none until `end`.
fn await_ready<const N: usize>(
    pipes: [Option<PollFd<'_>>; N],
    end: Instant,
) -> io::Result<Option<[bool; N]>> {
    let is_open = pipes.each_ref().map(Option::is_some);
    let mut open: Vec<PollFd<'_>> = pipes.into_iter().flatten().collect();
    // A timeout is in whole milliseconds. It is rounded up, so that the loop does not spin
    // in the last one.
    let left = end.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    if poll(&mut open, timeout)? == 0 {
        return Ok(None);
    }
    let mut answers = open.iter().map(|pipe| pipe.any().unwrap_or(true));
    Ok(Some(
        is_open.map(|is_open| is_open && answers.next().unwrap_or(false)),
    ))
}

/// Kills and reaps the program after the error `cause`, and returns that error.
fn stop(child: &mut Child, cause: io::Error) -> io::Error {
    match child.kill().and_then(|()| child.wait()) {
        Ok(_) => cause,
        Err(second) => {
            let text = format!("{cause}, and it cannot be stopped: {second}");
            io::Error::new(cause.kind(), text)
        }
    }
}

/// Starts a program. If its file is being written at this moment, by an installer that
/// copies instead of renaming, it waits until the file is closed.
fn spawn(command: &mut Command, deadline: Duration) -> io::Result<Child> {
    match command.spawn() {
        Err(cause) if cause.raw_os_error() == Some(ETXTBSY) => {}
        outcome => return outcome,
    }
    let end = Instant::now() + deadline;
    let written = Inotify::init(InitFlags::IN_CLOEXEC)?;
    written.add_watch(
        Path::new(command.get_program()),
        AddWatchFlags::IN_CLOSE_WRITE,
    )?;
    loop {
        // It may have been closed before the watch began, so try before waiting.
        match command.spawn() {
            Err(cause) if cause.raw_os_error() == Some(ETXTBSY) => {}
            outcome => return outcome,
        }
        let left = end.saturating_duration_since(Instant::now());
        let mut descriptors = [PollFd::new(written.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if poll(&mut descriptors, timeout)? == 0 {
            return Err(io::Error::from_raw_os_error(ETXTBSY));
        }
        written.read_events()?;
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    use super::*;

    #[test]
    fn a_delegate_that_does_not_answer_is_stopped() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let outcome = run(command, b"", Duration::from_millis(50));
        assert_eq!(
            outcome.err().map(|e| e.kind()),
            Some(io::ErrorKind::TimedOut)
        );
    }

    #[test]
    fn a_delegate_that_closes_its_pipes_and_goes_on_is_stopped() {
        let mut command = Command::new("sh");
        command.args(["-c", "exec <&- >&- 2>&-; exec sleep 600"]);
        let outcome = run(command, b"", Duration::from_millis(50));
        let kind = outcome.err().map(|e| e.kind());
        assert_eq!(kind, Some(io::ErrorKind::TimedOut));
    }

    #[test]
    fn a_delegate_that_reads_nothing_and_writes_much_does_not_block() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2",
        ]);
        let output = run(command, &vec![b'x'; 1_000_000], Duration::from_secs(60)).unwrap();
        assert_eq!(
            (output.stdout.len(), output.stderr.len()),
            (1_000_000, 1_000_000)
        );
    }

    #[test]
    fn a_delegate_that_writes_without_an_end_takes_no_memory_without_an_end() {
        let deadline = Duration::from_secs(60);
        let mut command = Command::new("cat");
        command.arg("/dev/zero");
        let outcome = run(command, b"", deadline);
        let kind = outcome.err().map(|e| e.kind());
        assert_eq!(kind, Some(io::ErrorKind::InvalidData));
        let mut command = Command::new("sh");
        command.args(["-c", "head -c 30000000 /dev/zero >&2; echo done"]);
        let output = run(command, b"", deadline).unwrap();
        assert_eq!(output.stdout, b"done\n");
        assert!(output.stderr.len() < 10_000_000, "{}", output.stderr.len());
    }

    #[test]
    fn a_program_that_is_being_written_is_waited_for_but_not_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        fs::copy("/bin/true", &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        let failed = spawn(&mut Command::new(&path), Duration::from_millis(20)).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(ETXTBSY));
        let mut child = thread::scope(|scope| {
            let waiting = scope.spawn(|| spawn(&mut Command::new(&path), Duration::from_secs(60)));
            drop(writer);
            waiting.join().unwrap().unwrap()
        });
        assert!(child.wait().unwrap().success());
    }
}
