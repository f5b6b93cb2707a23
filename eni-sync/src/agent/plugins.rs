//! Keeps the plugins of this suite where the runtime looks for them: others install programs of
//! the same names, as the VPC CNI does at each start. The kernel announces what changes in
//! the directory. Whoever replaces a plugin again and again is let win after some time, and
//! named; what the runtime finds changes by a rename only.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::error::{Error, Result};
use common::program::{ALL_PLUGINS, own_name};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{InitFlags, Inotify};
use tracing::{info, warn};

use crate::agent::attempts::{Attempts, MOST, WINDOW};
use crate::agent::configuration::Configuration;
use crate::agent::news::LastLook;
use crate::agent::shared::Agent;
use crate::agent::watch;
use crate::installed::{self, Installed};

/// How long until the next look without a change while something is wrong.
const PAUSE: Duration = Duration::from_secs(30);
/// The same while nothing is wrong; nothing depends on it.
const IDLE: Duration = Duration::from_secs(3600);

/// Watches the directory of the plugins for ever.
pub(crate) fn run(agent: &Arc<Agent>) {
    let mut plugins = Plugins::of(&agent.configuration);
    loop {
        if let Err(error) = plugins.watch(agent) {
            // What cannot be watched is looked at all the same.
            plugins.look(agent, Some(error.to_string()));
        }
        thread::sleep(PAUSE);
    }
}

/// What identifies the content of a file without reading it.
type Stamp = (u64, u64, u64, i64, i64);

/// The plugins in a directory.
struct Plugins {
    directory: PathBuf,
    /// The directory of the agent's own program, where that is another one.
    image: Option<PathBuf>,
    is_restoring: bool,
    /// What each name was when it was last read.
    known: HashMap<String, (Stamp, Installed)>,
    /// When each name was put back, or was to be.
    attempts: Attempts,
    /// What the last look has found to be wrong.
    said: LastLook,
}

impl Plugins {
    fn of(configuration: &Configuration) -> Self {
        let directory = configuration.plugin_directory().to_owned();
        let program = std::env::current_exe().unwrap_or_default();
        let image = program.parent().map(Path::to_owned);
        let is_same =
            |path: &PathBuf| fs::canonicalize(path).ok() == fs::canonicalize(&directory).ok();
        Self {
            image: image.filter(|image| !is_same(image)),
            directory,
            is_restoring: configuration.restores_plugins(),
            known: HashMap::new(),
            attempts: Attempts::default(),
            said: LastLook::default(),
        }
    }

    fn watch(&mut self, agent: &Agent) -> Result<()> {
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let inotify = Inotify::init(flags).map_err(failed)?;
        while agent.await_turn() {
            // Watched first, looked at then: nothing can change between the two.
            watch::add_watch(&inotify, &self.directory)?;
            self.look(agent, None);
            let wait = if self.said.is_empty() { IDLE } else { PAUSE };
            self.await_change(&inotify, wait)?;
        }
        Ok(())
    }

    /// Waits until something happens to a plugin, or to the directory. What this agent or
    /// others write under other names, they rename when it is complete.
    fn await_change(&self, inotify: &Inotify, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut descriptors = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
            if poll(&mut descriptors, timeout).map_err(failed)? == 0 {
                return Ok(());
            }
            let events = match inotify.read_events() {
                Err(nix::Error::EAGAIN) => Vec::new(),
                events => events.map_err(failed)?,
            };
            let mut names = events.iter().map(|event| event.name.as_deref());
            if names.any(|name| name.is_none_or(|name| self.is_relevant(Path::new(name)))) {
                return Ok(());
            }
        }
    }

    /// Whether a name is that of a plugin or, while the directory is missing, on the way to it.
    fn is_relevant(&self, name: &Path) -> bool {
        let is_on_the_way = || self.directory.iter().any(|part| part == name.as_os_str());
        installed::names().any(|(known, _)| Path::new(&known) == name) || is_on_the_way()
    }

    /// Finds out what is installed, puts back what is not ours, and says what is wrong besides.
    fn look(&mut self, agent: &Agent, unwatched: Option<String>) {
        let mut findings = Vec::from_iter(unwatched);
        let mut found = Vec::new();
        for (name, plugin) in installed::names() {
            if let Err(error) = self.keep(agent, &name, plugin) {
                findings.push(error.to_string());
            }
            if let Ok(installed) = self.at(&self.directory.join(&name), plugin) {
                found.push((name, installed));
            }
        }
        let seen = found.iter().map(|(name, found)| (name.as_str(), found));
        agent.metrics.note_installed(seen);
        agent.health.note_plugins(findings.clone());
        for finding in self.said.replace(findings) {
            warn!("{finding}");
        }
    }

    /// Puts a plugin back if it is not ours and there is a copy of ours.
    ///
    /// # Errors
    /// What is wrong with it.
    fn keep(&mut self, agent: &Agent, name: &str, plugin: &'static str) -> Result<()> {
        let path = self.directory.join(name);
        let found = self.at(&path, plugin)?;
        if found.is_ours() {
            return Ok(());
        }
        let Some((copy, version)) = self.copy(name, plugin)? else {
            return Ok(());
        };
        let (shown, own) = (path.display(), own_name(plugin));
        if !self.is_restoring {
            // Where ours were never installed, others are none of this agent's business.
            let is_replaced = found != Installed::Missing && copy.starts_with(&self.directory);
            let why = "the agent does not put ours back: `plugins` in its configuration";
            return match is_replaced {
                true => Err(Error::config(format!("{shown} is {found}")).with_details(why)),
                false => Ok(()),
            };
        }
        if !self.attempts.may_try(name) {
            let minutes = WINDOW.as_secs() / 60;
            let why = format!(
                "this suite's program was replaced {MOST} times in {minutes} minutes, and is put back \
                 in some minutes; until then, use it by the type {own:?}"
            );
            return Err(Error::internal(format!("{shown} is {found}")).with_details(why));
        }
        let restored = self.restore(&path, plugin, &copy);
        let is_new = restored.map_err(|error| {
            let msg = format!("{shown} is {found}, and ours could not be put back");
            Error::new(error.code, msg).with_details(error.to_string())
        })?;
        if is_new {
            agent.metrics.note_restored(name);
            info!(plugin, "{shown} was {found}; it is {version} again");
        }
        Ok(())
    }

    /// Copies one of ours to a path; whether that was still necessary when nobody else was
    /// installing any more.
    fn restore(&mut self, path: &Path, plugin: &'static str, copy: &Path) -> Result<bool> {
        let _lock = installed::lock(&self.directory)?;
        if self.at(path, plugin)?.is_ours() {
            return Ok(false);
        }
        if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && let Err(cause) = installed::keep_replaced(&self.directory, name, plugin)
        {
            warn!("the {name} that was there is not kept: {cause}");
        }
        let failed = |cause| Error::io(format!("failed to copy {copy:?}"), &cause);
        installed::put(copy, path).map_err(failed)?;
        Ok(true)
    }

    /// A program of ours to put under a name: the one that was installed last has the name
    /// that nobody else uses. The one of the agent's image, where eni-cni may be alone, is for
    /// that name itself, and where the other is missing.
    fn copy(&mut self, name: &str, plugin: &'static str) -> Result<Option<(PathBuf, Installed)>> {
        let own = own_name(plugin);
        let mut candidates = Vec::new();
        if name != own {
            candidates.push(self.directory.join(&own));
        }
        let image = self.image.iter();
        let names = [&own, plugin, ALL_PLUGINS];
        candidates.extend(image.flat_map(|image| names.map(|name| image.join(name))));
        for path in candidates {
            let installed = self.at(&path, plugin)?;
            if installed.is_ours() {
                return Ok(Some((path, installed)));
            }
        }
        Ok(None)
    }

    /// What is at a path. A file that has not changed is not read again.
    fn at(&mut self, path: &Path, plugin: &'static str) -> Result<Installed> {
        let failed = |cause: io::Error| Error::io(format!("failed to look at {path:?}"), &cause);
        let key = path.display().to_string();
        let stamp = fs::metadata(path).ok().map(|m| stamp(&m));
        if let (Some((known, installed)), Some(stamp)) = (self.known.get(&key), &stamp)
            && known == stamp
        {
            return Ok(installed.clone());
        }
        let installed = installed::at(path, plugin).map_err(failed)?;
        match stamp {
            Some(stamp) => self.known.insert(key, (stamp, installed.clone())),
            None => self.known.remove(&key),
        };
        Ok(installed)
    }
}

fn stamp(file: &fs::Metadata) -> Stamp {
    let changed = file.ctime() * 1_000_000_000 + file.ctime_nsec();
    let written = file.mtime() * 1_000_000_000 + file.mtime_nsec();
    (file.dev(), file.ino(), file.len(), written, changed)
}

fn failed(errno: nix::Error) -> Error {
    Error::internal("failed to watch the plugins").because(&errno.into())
}
