//! The sockets of the resources, and their registration with the kubelet: again when the kubelet
//! has started anew, and when somebody has removed a socket. Nothing of this keeps the agent
//! from its work; what does not succeed is tried again.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::error::{Error, Result};
use common::files::file;
use common::say;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tracing::info;

use crate::agent::attempts::{Attempts, MOST, WINDOW};
use crate::agent::configuration::Resource;
use crate::agent::devices::api::{self, Device, KUBELET_SOCKET, REGISTER};
use crate::agent::devices::grpc::call;
use crate::agent::devices::plugin::{Listeners, Plugin, options};
use crate::agent::devices::shown::{self, Shown};
use crate::agent::news::LastLook;
use crate::agent::shared::Agent;
use crate::plugin::socket::Listener;

/// After a failure, the next try waits this long at first, and twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long the kubelet may take to answer, and then to listen to the list.
const KUBELET_DEADLINE: Duration = Duration::from_secs(10);
/// How long to wait when nothing is due; nothing depends on it.
const IDLE: Duration = Duration::from_secs(3600);

/// What the look at the node has found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    /// Whether this agent is the one that serves.
    pub(crate) is_serving: bool,
    /// The socket of the kubelet, if there is one.
    pub(crate) kubelet: Option<Identity>,
    /// The resources, in the order of the configuration.
    pub(crate) resources: Vec<Shown>,
}

/// Which socket it is: a file with the same number can be another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    inode: u64,
    changed: (i64, i64),
}

impl Identity {
    /// That of the kubelet's socket in the directory.
    pub(crate) fn of_kubelet(directory: &Path) -> Option<Self> {
        Self::of(&directory.join(KUBELET_SOCKET))
    }

    /// That of the socket at a path.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok()?;
        Some(Self {
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// Serves the resources and keeps them registered, until the look ends.
pub(crate) async fn run(agent: &Arc<Agent>, mut looks: watch::Receiver<Look>) {
    let mut endpoints: Vec<Endpoint> = agent
        .configuration
        .resources
        .iter()
        .cloned()
        .map(|resource| Endpoint::new(agent, resource))
        .collect();
    let mut said = LastLook::default();
    loop {
        let look = looks.borrow_and_update().clone();
        let mut all = Vec::new();
        for (endpoint, shown) in endpoints.iter_mut().zip(&look.resources) {
            endpoint.offer(shown);
            endpoint.tend(agent, &look).await;
            all.push(endpoint.shown(shown));
        }
        note(agent, &all, &mut said);
        let due = endpoints.iter().filter_map(|endpoint| endpoint.again).min();
        let wait = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
        // When it is over without a look, something is due.
        if matches!(timeout(wait, looks.changed()).await, Ok(Err(_))) {
            return;
        }
    }
}

/// Notes how the resources are, and says what is new.
fn note(agent: &Agent, all: &[Shown], said: &mut LastLook) {
    match agent.resources.note(all) {
        Ok(true) => agent.metrics.resources.note(all),
        Ok(false) => {}
        Err(error) => say!("{error}"),
    }
    let problems = agent.resources.findings().into_iter();
    let problems: BTreeSet<String> = problems.collect();
    for finding in said.replace(problems.into_iter().collect()) {
        say!("{finding}");
    }
}

/// A resource with its socket.
struct Endpoint {
    plugin: Plugin,
    path: PathBuf,
    /// The socket, and who serves it.
    served: Option<(Listener, AbortHandle)>,
    /// The kubelet that was there at the last look.
    kubelet: Option<Identity>,
    /// Since when it has the resource.
    registered: Option<Instant>,
    /// Whether it was listening then.
    was_heard: bool,
    /// When to try again.
    again: Option<Instant>,
    pause: Duration,
    attempts: Attempts,
    problem: Option<String>,
}

impl Endpoint {
    fn new(agent: &Agent, resource: Resource) -> Self {
        let path = agent.configuration.device_plugin_path();
        Self {
            path: path.join(resource.socket_name()),
            plugin: Plugin {
                resource: Arc::new(resource),
                list: watch::Sender::default(),
                listeners: Listeners::new(agent.resources.waker()),
            },
            served: None,
            kubelet: None,
            registered: None,
            was_heard: false,
            again: None,
            pause: FIRST_PAUSE,
            attempts: Attempts::default(),
            problem: None,
        }
    }

    /// Tells whoever listens which devices there are, if they are others than before.
    fn offer(&self, shown: &Shown) {
        let device = |one: &shown::Device| Device {
            id: one.id.clone(),
            health: match one.unhealthy {
                None => api::HEALTHY,
                Some(_) => api::UNHEALTHY,
            }
            .to_owned(),
            topology: one.numa.map(|id| api::TopologyInfo {
                nodes: vec![api::NumaNode { id }],
            }),
        };
        let devices: Vec<Device> = shown.devices.iter().map(device).collect();
        self.plugin.list.send_if_modified(|list| {
            let is_other = *list != devices;
            *list = devices;
            is_other
        });
    }

    /// The same resource, with how it is with the kubelet.
    fn shown(&self, shown: &Shown) -> Shown {
        let mut problems = shown.problems.clone();
        problems.extend(self.problem.clone());
        Shown {
            registered: self.registered.is_some() && self.plugin.listeners.is_any(),
            problems,
            ..shown.clone()
        }
    }

    /// Does what is due: the socket, and the registration.
    async fn tend(&mut self, agent: &Agent, look: &Look) {
        if !look.is_serving {
            self.close();
            return;
        }
        self.follow(look.kubelet);
        let is_in_place = self.served.as_ref().is_some_and(|(l, _)| l.is_in_place());
        if is_in_place && let Some(since) = self.registered {
            self.again = (!self.was_heard).then(|| since + KUBELET_DEADLINE);
            return;
        }
        if look.kubelet.is_none() {
            (self.again, self.problem) = (None, Some(self.missing()));
            return;
        }
        if self.again.is_some_and(|again| again > Instant::now()) {
            return;
        }
        let name = &self.plugin.resource.name;
        if !self.attempts.may_try(name) {
            let minutes = WINDOW.as_secs() / 60;
            let why = format!("the kubelet has let go of it {MOST} times in {minutes} minutes");
            (self.again, self.problem) = (Some(Instant::now() + LONGEST_PAUSE), Some(why));
            return;
        }
        let outcome = self.register(is_in_place).await;
        agent
            .metrics
            .resources
            .note_attempt(&self.plugin.resource.name, outcome.is_ok());
        match outcome {
            Ok(()) => {
                let taken = Instant::now();
                self.registered = Some(taken);
                self.again = Some(taken + KUBELET_DEADLINE);
                (self.pause, self.problem) = (FIRST_PAUSE, None);
                let resource = self.plugin.resource.name.as_str();
                info!(resource, "the kubelet has taken the resource {resource}");
            }
            Err(why) => {
                // Only what has succeeded can have been undone by somebody.
                self.attempts = Attempts::default();
                (self.again, self.problem) = (Some(Instant::now() + self.pause), Some(why));
                self.pause = LONGEST_PAUSE.min(self.pause * 2);
            }
        }
    }

    /// Finds out whether the kubelet still has the resource: not when another kubelet is there,
    /// not when the one that has listened does so no more, and not when it has not begun to.
    fn follow(&mut self, kubelet: Option<Identity>) {
        let is_heard = self.plugin.listeners.is_any();
        let is_late = |since: Instant| since.elapsed() >= KUBELET_DEADLINE;
        let is_lost = !is_heard && (self.was_heard || self.registered.is_some_and(is_late));
        if self.kubelet != kubelet {
            (self.again, self.pause) = (None, FIRST_PAUSE);
            self.attempts = Attempts::default();
        }
        if self.kubelet != kubelet || is_lost {
            self.registered = None;
        }
        (self.kubelet, self.was_heard) = (kubelet, is_heard);
    }

    /// Makes the socket, where it is not in its place, and has the kubelet take the resource.
    async fn register(&mut self, is_in_place: bool) -> Result<(), String> {
        if !is_in_place {
            self.listen().map_err(|error| error.to_string())?;
        }
        let request = api::RegisterRequest {
            version: api::VERSION.to_owned(),
            endpoint: self.plugin.resource.socket_name(),
            resource_name: self.plugin.resource.name.clone(),
            options: Some(options()),
        };
        let socket = self.directory().join(KUBELET_SOCKET);
        let answer = call::<_, api::Empty>(&socket, REGISTER, request, KUBELET_DEADLINE);
        let answer = answer.await;
        answer.map_err(|why| format!("the kubelet does not take it: {why}; trying again"))?;
        Ok(())
    }

    fn listen(&mut self) -> Result<()> {
        self.close();
        let failed =
            |cause: io::Error| Error::io(format!("failed to listen on {:?}", self.path), &cause);
        let listener = Listener::open(&self.path)?;
        let socket = listener.socket().and_then(UnixListener::from_std);
        let serving = self.plugin.clone().serve(socket.map_err(failed)?);
        self.served = Some((listener, tokio::spawn(serving).abort_handle()));
        Ok(())
    }

    /// Ends every connection, and removes the socket unless another one is in its place.
    fn close(&mut self) {
        (self.registered, self.again, self.problem) = (None, None, None);
        let Some((listener, serving)) = self.served.take() else {
            return;
        };
        serving.abort();
        if listener.is_in_place()
            && let Err(cause) = file::remove(&self.path)
        {
            say!("failed to remove {:?}: {cause}", self.path);
        }
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Why there is no kubelet to register with.
    fn missing(&self) -> String {
        let directory = self.directory();
        match directory.is_dir() {
            true => format!("there is no kubelet: {directory:?} has no {KUBELET_SOCKET}"),
            false => format!(
                "there is no directory {directory:?}: where the agent runs in a container, it \
                 has to be mounted there"
            ),
        }
    }
}
