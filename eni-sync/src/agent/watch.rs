//! Watches the directories in which host-local keeps the reservations of networks that do not
//! chain eni-sync. An address that appears is registered, and one that disappears is released.
//! Missed changes are found by looking again.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::error::{Error, Result};
use common::say;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::agent::configuration::{Networks, Watched};
use crate::agent::found::{self, Found};
use crate::agent::logged::Source;
use crate::agent::news::LastLook;
use crate::agent::shared::Agent;
use crate::agent::{auto, reserved};
use crate::registration::without::Without;

/// The pause after an error of the watch itself.
const PAUSE: Duration = Duration::from_secs(5);

/// Watches the networks of the configuration for ever.
pub(crate) fn run(agent: &Arc<Agent>) {
    let mut said = LastLook::default();
    loop {
        if let Err(error) = watch(agent, &mut said) {
            // Without a watch, the networks are examined periodically.
            look_unwatched(agent, &error, &mut said);
        }
        thread::sleep(PAUSE);
    }
}

/// Examines every network, and again whenever one of the directories changes.
fn watch(agent: &Arc<Agent>, said: &mut LastLook) -> Result<()> {
    let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
    let inotify = Inotify::init(flags).map_err(failed)?;
    while agent.await_turn() {
        let usual = agent.configuration.reconcile_interval();
        let wait = look(agent, Ok(&inotify), said)?;
        agent.announce();
        let waits = wait.into_iter().chain(agent.until_look());
        await_change(&inotify, waits.fold(usual, Duration::min))?;
    }
    Ok(())
}

/// Examines every network once, without a watch.
fn look_unwatched(agent: &Arc<Agent>, why: &Error, said: &mut LastLook) {
    if !agent.await_turn() {
        return;
    }
    if let Err(error) = look(agent, Err(why), said) {
        let findings = vec![error.to_string()];
        say_new(said, &findings);
        agent.metrics.note_unregistered(findings.len());
        agent.health.note_unregistered(findings);
    }
    agent.announce();
}

/// The watch, or why there is none.
type Watch<'a> = std::result::Result<&'a Inotify, &'a Error>;

/// The result of examining the networks.
struct Looked {
    /// The networks that could not be examined, and why.
    findings: Vec<String>,
    source: Source,
    without: Vec<Without>,
    /// When to look again even if nothing changes.
    again: Option<Duration>,
}

/// Updates the ledger by the reservations of every network. Returns when to look again even if
/// nothing changes.
fn look(agent: &Agent, watch: Watch<'_>, said: &mut LastLook) -> Result<Option<Duration>> {
    let looked = match &agent.configuration.networks {
        Networks::Listed(networks) => follow_listed(agent, watch, networks)?,
        Networks::Auto => follow_found(agent, watch)?,
    };
    let again = looked.again;
    note(agent, watch, looked, said);
    Ok(again)
}

/// Updates the ledger by the networks of the configuration.
fn follow_listed(agent: &Agent, watch: Watch<'_>, networks: &[Watched]) -> Result<Looked> {
    // The watch comes first, so that no address is missed between the two.
    if let Ok(inotify) = watch {
        for network in networks {
            add_watch(inotify, &network.directory())?;
        }
    }
    let (mut findings, mut without) = (Vec::new(), Vec::new());
    // Records only add the names of pods, so their errors do not prevent the registration.
    let found = Found::read().unwrap_or_default();
    for network in networks {
        match reserved::follow(agent, network, &found) {
            Ok(found) => without.extend(found),
            Err(error) => findings.push(format!("network {}: {error}", network.name)),
        }
    }
    let (again, source) = match findings.is_empty() {
        true => (None, Source::Watched),
        false => (Some(PAUSE), Source::WatchedInPart),
    };
    Ok(Looked {
        findings,
        source,
        without,
        again,
    })
}

/// The same for the networks that the records of this node show.
fn follow_found(agent: &Agent, watch: Watch<'_>) -> Result<Looked> {
    if let Ok(inotify) = watch {
        for directory in found::directories()? {
            add_watch(inotify, &directory)?;
        }
    }
    let found = Found::read()?;
    if let Ok(inotify) = watch {
        for network in &found.networks {
            add_watch(inotify, &network.directory())?;
        }
    }
    let (outcome, followed) = auto::follow(agent, &found);
    let (findings, source, again) = match followed {
        Ok(()) => (Vec::new(), Source::Watched, outcome.again),
        Err(error) => {
            let finding = format!("networks of this node: {error}");
            (vec![finding], Source::WatchedInPart, Some(PAUSE))
        }
    };
    Ok(Looked {
        findings,
        source,
        without: outcome.without,
        again,
    })
}

/// Notes what cannot be registered or watched for metrics and readiness, and reports the pods
/// concerned.
fn note(agent: &Agent, watch: Watch<'_>, looked: Looked, said: &mut LastLook) {
    let unwatched = watch
        .err()
        .map(|why| format!("{why}; looking every {PAUSE:?}"));
    let count = looked.findings.len() + looked.without.len();
    let mut findings = looked.findings;
    findings.extend(unwatched);
    say_new(said, &findings);
    findings.extend(looked.without.iter().map(Without::to_string));
    agent.metrics.note_unregistered(count);
    agent.health.note_unregistered(findings);
    agent.tell_without(looked.source, looked.without);
}

/// Logs the findings that the last look did not have.
fn say_new(said: &mut LastLook, findings: &[String]) {
    for finding in said.replace(findings.to_vec()) {
        say!("{finding}");
    }
}

/// Waits for a change, or until `time` is over. Which change it was does not matter: a look
/// finds all of them.
fn await_change(inotify: &Inotify, time: Duration) -> Result<()> {
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    let mut descriptors = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
    poll(&mut descriptors, timeout).map_err(failed)?;
    match inotify.read_events() {
        Ok(_) | Err(nix::Error::EAGAIN) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

fn failed(errno: nix::Error) -> Error {
    Error::internal("failed to watch the reservations").because(&errno.into())
}

/// Watches a directory, or its closest existing ancestor until it appears.
pub(super) fn add_watch(inotify: &Inotify, directory: &Path) -> Result<()> {
    watch_closest(directory, |place| watch_existing(inotify, place))
}

/// `watch` returns whether a directory exists, which it watches from then on.
fn watch_closest(directory: &Path, watch: impl Fn(&Path) -> Result<bool>) -> Result<()> {
    loop {
        let mut missing = None;
        for place in directory.ancestors() {
            if watch(place)? {
                break;
            }
            missing = Some(place);
        }
        match missing {
            // It has appeared before its ancestor was watched, so no event reports it.
            Some(missing) if watch(missing)? => {}
            _ => return Ok(()),
        }
    }
}

/// Watches a directory. Returns whether it exists.
fn watch_existing(inotify: &Inotify, directory: &Path) -> Result<bool> {
    let changes = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF;
    match inotify.add_watch(directory, changes) {
        Ok(_) => Ok(true),
        Err(nix::Error::ENOENT) => Ok(false),
        Err(errno) => {
            let msg = format!("failed to watch {directory:?}");
            Err(Error::internal(msg).because(&errno.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::cell::Cell;
    use std::fs::{self, File};

    #[test]
    fn a_directory_that_appears_while_its_ancestor_is_watched_is_not_missed() {
        for after in 0..4 {
            let root = tempfile::tempdir().unwrap();
            let directory = root.path().join("outer/inner");
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
            let calls = Cell::new(0);
            let watch = |place: &Path| {
                if calls.replace(calls.get() + 1) == after {
                    fs::create_dir_all(&directory).unwrap();
                }
                watch_existing(&inotify, place)
            };
            watch_closest(&directory, watch).unwrap();
            // If the directory is watched itself, nothing has happened in it so far.
            File::create(directory.join("file")).unwrap();
            assert!(inotify.read_events().is_ok(), "before call {after}");
        }
    }
}
