//! Attachments whose container has ended without a DEL. The plugin that made an attachment ends
//! it by its own record, as if the runtime had sent the DEL: addresses become free, and a
//! device that the kernel has returned to the node gets its name back. Nothing is done if the
//! container may still exist.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use common::cni::args::Delegates;
use common::cni::process;
use common::error::{Error, Errors, Result};
use common::kernel::netns::{Holders, Presence};
use common::program::own_name;
use common::records::{Attachment, ONLY, Records, boot_id};
use common::say;
use common::text::printable;
use serde_json::Value;
use tracing::{error, info};

use crate::agent::news::News;
use crate::agent::shared::Agent;

/// The plugins that keep records of their attachments.
const PLUGINS: [&str; 2] = ["host-device", "ipvlan"];
/// How long a DEL may take: as long as a runtime would wait at least.
const DEADLINE: Duration = Duration::from_secs(120);

/// How many of them are executed at the same time, and how many of these may have failed before: what
/// hangs each time keeps nothing waiting that was not tried yet.
const AT_ONCE: usize = 4;
const AGAIN_AT_ONCE: usize = AT_ONCE - 1;
/// The pause after the first error; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause after a look for attachments that has failed, and after a DEL.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE_OF_DEL: Duration = Duration::from_secs(300);

/// The attachments without a container, each by its name and what tells it from the next one of the
/// same name.
#[derive(Default)]
struct Orphans {
    /// Since when they have been seen.
    abandoned: HashMap<Key, Instant>,
    /// Those that are to be ended, the ones that have failed last.
    due: VecDeque<Due>,
    /// Those whose DEL is being executed.
    running: HashSet<Key>,
    /// Those whose last DEL has failed.
    failed: HashMap<Key, Retry>,
}

/// Names an attachment, and identifies it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    name: String,
    identity: String,
}

/// An attachment that is to be ended.
struct Due {
    plugin: &'static str,
    record: Attachment<Value>,
    key: Key,
}

/// When a DEL that has failed is tried again.
struct Retry {
    at: Instant,
    pause: Duration,
}

/// What a DEL has ended in.
type Ended = (Key, Result<()>);

/// Ends attachments whose container has ended, for ever. Nothing waits for the DELs, which can take
/// long: a plugin may call another program, and that a server.
pub(super) fn run(agent: &Arc<Agent>) {
    let (mut orphans, mut news) = (Orphans::default(), News::default());
    let (mut look_at, mut pause) = (Instant::now(), FIRST_PAUSE);
    let (done, ended) = channel();
    while agent.await_turn() {
        if look_at <= Instant::now() {
            let mut kept = Vec::new();
            let looked = orphans.look(agent.configuration.grace(), &mut kept);
            for finding in news.among(kept) {
                say!("{finding}");
            }
            look_at = Instant::now() + agent.configuration.reconcile_interval();
            match looked {
                Err(error) => look_at = look_at.min(later(&error, &mut pause)),
                Ok(()) => pause = FIRST_PAUSE,
            }
        }
        orphans.start(agent, &done);
        let next = orphans.next_retry().map_or(look_at, |at| at.min(look_at));
        let wait = next.saturating_duration_since(Instant::now());
        // This thread keeps the other end, so nothing but the time ends the wait in vain.
        match ended.recv_timeout(wait) {
            Ok((key, outcome)) => orphans.note(key, outcome),
            Err(_) => look_at = next,
        }
    }
}

/// Reports an error, and returns when to look again.
fn later(error: &Error, pause: &mut Duration) -> Instant {
    error!("{error}; trying again in {pause:?}");
    let next = Instant::now() + *pause;
    *pause = LONGEST_PAUSE.min(*pause * 2);
    next
}

impl Orphans {
    /// Looks for the attachments whose container ended at least `grace` ago. Adds to `kept` the
    /// attachments that stay because it is unknown whether their container exists.
    ///
    /// # Errors
    /// Those of any records; the others count.
    fn look(&mut self, grace: Duration, kept: &mut Vec<String>) -> Result<()> {
        let mut errors = Errors::default();
        let (mut due, mut abandoned) = (Vec::new(), HashMap::new());
        let (boot, holders) = (boot_id()?, Holders::default());
        for plugin in PLUGINS {
            let records = errors.keep(Records::of(plugin).all::<Value>());
            for record in records.into_iter().flatten() {
                let name = name(plugin, &record);
                match record.presence(&boot, &holders) {
                    Presence::Ended => {}
                    Presence::Living => continue,
                    Presence::Unknown(why) => {
                        kept.push(format!("{name} is kept: {why}"));
                        continue;
                    }
                }
                let identity = record.identity();
                let key = Key { name, identity };
                let since = self.abandoned.get(&key).copied();
                let since = since.unwrap_or_else(Instant::now);
                abandoned.insert(key.clone(), since);
                if since.elapsed() >= grace && self.may_start(&key) {
                    due.push(Due {
                        plugin,
                        record,
                        key,
                    });
                }
            }
        }
        self.abandoned = abandoned;
        self.failed
            .retain(|key, _| self.abandoned.contains_key(key));
        due.sort_by_key(|due| self.failed.contains_key(&due.key));
        self.due = due.into();
        errors.into_result()
    }

    /// Whether the DEL of an attachment neither is being executed nor has failed a moment ago.
    fn may_start(&self, key: &Key) -> bool {
        let retry = self.failed.get(key);
        !self.running.contains(key) && retry.is_none_or(|retry| retry.at <= Instant::now())
    }

    /// When the next one that has failed is tried again.
    fn next_retry(&self) -> Option<Instant> {
        let is_waiting = |key: &Key| {
            let is_due = self.due.iter().any(|due| due.key == *key);
            !is_due && !self.running.contains(key)
        };
        let waiting = self.failed.iter().filter(|(key, _)| is_waiting(key));
        waiting.map(|(_, retry)| retry.at).min()
    }

    /// Takes the next one that is to be ended, if there is a thread for it.
    fn next(&mut self) -> Option<Due> {
        let has_failed = |key: &Key| self.failed.contains_key(key);
        let most = match has_failed(&self.due.front()?.key) {
            true => AGAIN_AT_ONCE,
            false => AT_ONCE,
        };
        let is_free = self.running.len() < most;
        is_free.then(|| self.due.pop_front()).flatten()
    }

    /// Starts the next DELs, each on a thread of its own.
    fn start(&mut self, agent: &Arc<Agent>, done: &Sender<Ended>) {
        while let Some(Due {
            plugin,
            record,
            key,
        }) = self.next()
        {
            self.running.insert(key.clone());
            let (of_thread, to_end) = (done.clone(), key.clone());
            let started = agent.start("orphan", move |agent| {
                let outcome = end(plugin, &record, agent.configuration.cni_path());
                if outcome.is_ok() {
                    tell(plugin, &record, &to_end.name);
                }
                // Nobody listens only when the agent ends.
                drop(of_thread.send((to_end, outcome)));
            });
            if let Err(error) = started {
                self.note(key, Err(error));
            }
        }
    }

    /// Notes the end of a DEL, and reports why it has failed.
    fn note(&mut self, key: Key, outcome: Result<()>) {
        self.running.remove(&key);
        let Err(error) = outcome else {
            self.failed.remove(&key);
            self.abandoned.remove(&key);
            return;
        };
        let last = self.failed.get(&key).map(|retry| retry.pause);
        let pause = last.map_or(FIRST_PAUSE, |last| LONGEST_PAUSE_OF_DEL.min(last * 2));
        error!("{error}; trying again in {pause:?}");
        let at = Instant::now() + pause;
        self.failed.insert(key, Retry { at, pause });
    }
}

fn tell(plugin: &str, record: &Attachment<Value>, name: &str) {
    let reason = "its container has gone without a DEL";
    info!(
        plugin,
        network = record.network,
        container = record.container_id.as_str(),
        interface = record.ifname.as_str(),
        reason,
        "ended {name}, whose container has gone"
    );
}

fn name(plugin: &str, record: &Attachment<Value>) -> String {
    let name = format!(
        "{plugin} attachment of container {}, interface {}, network {}",
        record.container_id, record.ifname, record.network
    );
    printable(&name).into_owned()
}

/// Executes the DEL that the runtime has not sent.
fn end(plugin: &str, record: &Attachment<Value>, cni_path: &str) -> Result<()> {
    let failed = |why: String| {
        let msg = format!("failed to end the {}", name(plugin, record));
        Error::internal(msg).with_details(why)
    };
    // The plugin's own name comes first: the other name may be that of another program.
    let names = [own_name(plugin), plugin.to_owned()];
    let mut candidates = names.iter().flat_map(|name| {
        let directories = cni_path.split(':');
        directories.map(move |directory| Path::new(directory).join(name))
    });
    let program = candidates
        .find(|path| path.is_file())
        .ok_or_else(|| failed(format!("there is no {plugin} in {cni_path}")))?;
    let args = record.del_args(&Delegates::in_path(cni_path))?;
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("CNI_COMMAND", "DEL")
        .env("CNI_CONTAINERID", args.container_id.as_str())
        .env("CNI_IFNAME", args.ifname.as_str())
        .env("CNI_NETNS", &args.netns)
        .env("CNI_PATH", cni_path)
        // The container may have been started again meanwhile.
        .env(ONLY, record.identity());
    let output = process::run(command, &args.conf.stdin, DEADLINE);
    let output = output.map_err(|cause| failed(cause.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stdout).into_owned())),
    }
}
