//! Running another program: everything it says, and an end to waiting for it.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc::ETXTBSY;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// How long to wait for somebody who is just writing the executable.
const INSTALLATION: Duration = Duration::from_secs(5);

/// What a finished program left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// Its diagnostics.
    pub stderr: Vec<u8>,
}

/// Runs a process with `stdin` and gives up on it after `deadline`. Pipes are
/// served by threads, so that a program that reads nothing or writes much
/// cannot block us; they end with the program, or with this process.
///
/// # Errors
/// Those of starting it, and `TimedOut` when it has been stopped.
pub fn run(mut command: Command, stdin: &[u8], deadline: Duration) -> io::Result<Output> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn(&mut command, INSTALLATION)?;
    if let Some(mut pipe) = child.stdin.take() {
        let stdin = stdin.to_vec();
        // A program may exit without reading; that is no error of ours.
        thread::spawn(move || pipe.write_all(&stdin).ok());
    }
    let (sender, receiver) = mpsc::channel();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::spawn(move || {
        // The receiver is gone when the deadline has passed; then nobody listens.
        sender.send(collect(stdout, stderr)).ok()
    });
    match receiver.recv_timeout(deadline) {
        Ok(collected) => {
            let (stdout, stderr) = collected?;
            let status = child.wait()?;
            Ok(Output {
                status,
                stdout,
                stderr,
            })
        }
        Err(_) => Err(stop(&mut child, deadline)),
    }
}

fn collect(
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let errors = thread::spawn(move || {
        let mut bytes = Vec::new();
        stderr
            .map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes))
            .map(|_| bytes)
    });
    let mut output = Vec::new();
    if let Some(mut pipe) = stdout {
        pipe.read_to_end(&mut output)?;
    }
    let errors = errors
        .join()
        .map_err(|_| io::Error::other("a reader ended early"))??;
    Ok((output, errors))
}

/// Kills the program that has not answered, and reaps it.
fn stop(child: &mut Child, deadline: Duration) -> io::Error {
    let answer = format!("no answer within {} s", deadline.as_secs_f32());
    match child.kill().and_then(|()| child.wait()) {
        Ok(_) => io::Error::new(io::ErrorKind::TimedOut, answer),
        Err(cause) => io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{answer}, and it cannot be stopped: {cause}"),
        ),
    }
}

/// Starts a program. One that is being written at this moment, by an installer that
/// copies instead of renaming, is waited for.
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
