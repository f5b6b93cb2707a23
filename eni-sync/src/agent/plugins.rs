//! Keeps the plugins of this suite installed where the runtime looks for them: other programs
//! install plugins of the same names, as the VPC CNI does at each start. The kernel announces
//! changes in the directory. A program that replaces a plugin again and again is not
//! overwritten for some time, and logged. A plugin is only ever replaced by a rename.

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

/// The time until the next look without a change, while there is a problem.
const PAUSE: Duration = Duration::from_secs(30);
/// The same while there is no problem.
const IDLE: Duration = Duration::from_secs(3600);

/// Watches the directory of the plugins for ever.
pub(crate) fn run(agent: &Arc<Agent>) {
    let mut plugins = Plugins::of(&agent.configuration);
    loop {
        if let Err(error) = plugins.watch(agent) {
            // Without a watch, the directory is examined periodically.
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
    /// The directory of the agent's own program, if it is another one.
    image: Option<PathBuf>,
    is_restoring: bool,
    /// The program that each path had when it was last read.
    known: HashMap<String, (Stamp, Installed)>,
    /// When each plugin was put back, or an attempt was made.
    attempts: Attempts,
    /// The problems that the last look has found.
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
            // The watch comes first, so that no change is missed between the two.
            watch::add_watch(&inotify, &self.directory)?;
            self.look(agent, None);
            let wait = if self.said.is_empty() { IDLE } else { PAUSE };
            self.await_change(&inotify, wait)?;
        }
        Ok(())
    }

    /// Waits until a plugin or the directory changes. Temporary names do not count: a complete
    /// file is renamed to its name.
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

    /// Whether a name is that of a plugin or, while the directory is missing, part of its path.
    fn is_relevant(&self, name: &Path) -> bool {
        let is_on_the_way = || self.directory.iter().any(|part| part == name.as_os_str());
        installed::names().any(|(known, _)| Path::new(&known) == name) || is_on_the_way()
    }

    /// Finds out what is installed, puts plugins of this suite back, and logs problems.
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

    /// Puts a plugin of this suite back if another program has its name and there is a copy.
    ///
    /// # Errors
    /// The problem of the plugin.
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
            // If this suite was never installed here, other plugins are not this agent's
            // concern.
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

    /// Copies a plugin of this suite to a path, unless another process has done so while this
    /// one waited for the lock. Returns whether it did.
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

    /// A copy of this suite's plugin for a name. Preferred is the plugin that was installed
    /// last, under the name that only this suite uses. The one in the agent's image, which may
    /// be `eni-cni` alone, serves for that name itself and if the other is missing.
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

    /// The program at a path. A file that has not changed is not read again.
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
