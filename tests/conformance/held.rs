//! An ADD that cannot go on: while it waits for its delegate, or while nobody reads its
//! result. What comes meanwhile overlaps with it for certain.

use std::fs;
use std::io::{PipeReader, Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use harness::{Call, Output};
use nix::fcntl::{FcntlArg, fcntl};

use crate::assertion::{Verdict, ensure};
use crate::scene::{Scene, unlike};

/// How long a plugin may take for what does not wait for anything, on an emulated and busy
/// machine.
pub(crate) const PROMPTLY: Duration = Duration::from_secs(120);

/// How long a call is watched of which it cannot be seen whether it waits.
const WATCHED: Duration = Duration::from_secs(1);

/// What keeps the delegate's ADD until there is a file `gate`, or nobody who would make it.
const GATE: &str = r#"[ $CNI_COMMAND != ADD ] || {
    echo >"$dir/entered"
    while [ -e "$dir/hook" ] && [ ! -e "$dir/gate" ]; do sleep 0.05; done
}"#;

/// Runs `meanwhile` once ADD has asked its delegate for an address, which is given when
/// `meanwhile` has ended or seems to wait. Both have ended when this returns; ADD may
/// fail.
pub(crate) fn while_ipam_is_asked(scene: &Scene<'_>, meanwhile: &Call) -> Verdict {
    scene.ipam.hook(GATE);
    let add = scene.call("ADD", &scene.conf());
    std::thread::scope(|scope| {
        let add = scope.spawn(|| scene.node.run(&add));
        let has_entered = || scene.ipam.path("entered").exists();
        let is_there = until(PROMPTLY, || has_entered() || add.is_finished());
        let meanwhile = scope.spawn(|| scene.node.run(meanwhile));
        until(WATCHED, || meanwhile.is_finished());
        scene.ipam.write("gate", "");
        let ended = (add.join(), meanwhile.join());
        ensure!(
            is_there && has_entered(),
            "expected ADD to ask IPAM, came {ended:?}"
        );
        Ok(())
    })
}

/// Starts an ADD whose delegate waits for a file `gate`, and does not wait for it.
pub(crate) fn spawn_waiting_for_ipam(scene: &Scene<'_>) -> Result<Child, String> {
    scene.ipam.hook(GATE);
    let call = scene.call("ADD", &scene.conf());
    let mut process = call.process();
    process
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let spawned = scene.node.inside(|| process.spawn());
    let mut child = spawned.map_err(|cause| cause.to_string())?;
    feed(&mut child, &call)?;
    Ok(child)
}

fn feed(child: &mut Child, call: &Call) -> Verdict {
    match child.stdin.take() {
        Some(mut stdin) => stdin
            .write_all(call.input())
            .map_err(|cause| cause.to_string()),
        None => Ok(()),
    }
}

/// Waits until something is so, and says whether it has become so in time.
pub(crate) fn until(limit: Duration, is_so: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    is_so()
}

/// A call that has done everything but deliver its result, because the pipe is full.
pub(crate) struct Held {
    child: Child,
    reader: PipeReader,
    filling: usize,
}

impl Held {
    /// Starts a call and waits until it delivers its result.
    pub(crate) fn start(scene: &Scene<'_>, call: &Call) -> Result<Self, String> {
        let (reader, filling, mut process) = full_pipe(call).map_err(|cause| cause.to_string())?;
        let child = scene
            .node
            .inside(|| process.spawn())
            .map_err(|cause| cause.to_string())?;
        // The process has the only other end of the pipe now.
        drop(process);
        let mut held = Self {
            child,
            reader,
            filling,
        };
        feed(&mut held.child, call)?;
        let waits = until(PROMPTLY, || held.is_writing());
        ensure!(
            waits,
            "expected ADD to deliver a result, it did not within {PROMPTLY:?}"
        );
        Ok(held)
    }

    /// Whether a thread of the process waits for the pipe to be read.
    fn is_writing(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let waits = |task: fs::DirEntry| {
            fs::read_to_string(task.path().join("wchan"))
                .is_ok_and(|wchan| wchan.contains("pipe_w"))
        };
        tasks.into_iter().flatten().flatten().any(waits)
    }

    /// The most memory that the process has had, in KiB.
    pub(crate) fn peak_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// The time that its threads have spent on a processor.
    pub(crate) fn processor_time(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let spent = |task: fs::DirEntry| -> Option<u64> {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse().ok()
        };
        Duration::from_nanos(
            tasks
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(spent)
                .sum(),
        )
    }

    /// Reads the result and waits for the end.
    pub(crate) fn release(mut self) -> Result<String, String> {
        let mut bytes = Vec::new();
        self.reader
            .read_to_end(&mut bytes)
            .map_err(|cause| cause.to_string())?;
        self.child.wait().map_err(|cause| cause.to_string())?;
        Ok(String::from_utf8_lossy(&bytes[self.filling.min(bytes.len())..]).into_owned())
    }
}

/// Runs `meanwhile`, which must succeed, while a call cannot deliver its result. That is
/// read when `meanwhile` has ended or seems to wait.
pub(crate) fn while_held(held: Held, meanwhile: impl FnOnce() -> Output + Send) -> Verdict {
    let output = std::thread::scope(|scope| {
        let meanwhile = scope.spawn(meanwhile);
        until(WATCHED, || meanwhile.is_finished());
        held.release()?;
        meanwhile
            .join()
            .map_err(|_| "the call could not be made".to_owned())
    })?;
    output
        .try_ok()
        .map(drop)
        .map_err(|cause| unlike("success", &cause, &output))
}

/// The process of a call whose stdout is a pipe that takes no more.
fn full_pipe(call: &Call) -> std::io::Result<(PipeReader, usize, std::process::Command)> {
    let (reader, mut writer) = std::io::pipe()?;
    let capacity = fcntl(&writer, FcntlArg::F_GETPIPE_SZ)?;
    let filling = usize::try_from(capacity).unwrap_or_default();
    writer.write_all(&vec![b' '; filling])?;
    let mut process = call.process();
    process
        .stdin(Stdio::piped())
        .stdout(writer)
        .stderr(Stdio::null());
    Ok((reader, filling, process))
}
