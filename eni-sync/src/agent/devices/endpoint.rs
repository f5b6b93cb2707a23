//! A resource with its socket and its registration with the kubelet. It registers again when
//! the kubelet has restarted and when the socket was removed. The kubelet identifies a plugin
//! only by the name of its resource, and takes the end of one connection for the end of a newer
//! one of the same resource: so there is one at a time, also while one agent takes over from
//! another.

use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::error::{Error, Result};
use common::files::file::{self, Edition};
use common::say;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::info;

use crate::agent::attempts::{Attempts, MOST, WINDOW};
use crate::agent::configuration::Resource;
use crate::agent::devices::api::{self, Device, KUBELET_SOCKET, REGISTER};
use crate::agent::devices::grpc::call;
use crate::agent::devices::look::Look;
use crate::agent::devices::plugin::{Listeners, Plugin, options};
use crate::agent::devices::shown::{self, Shown};
use crate::agent::shared::Agent;
use crate::plugin::socket::{self, Listener};

/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long the kubelet may take to answer, and then to call `ListAndWatch`.
const KUBELET_DEADLINE: Duration = Duration::from_secs(10);
/// How long the kubelet may take to notice the end of a connection.
const SETTLE: Duration = Duration::from_secs(1);

/// A resource with its socket.
pub(crate) struct Endpoint {
    plugin: Plugin,
    path: PathBuf,
    /// The socket, and the task that serves it.
    served: Option<(Listener, AbortHandle)>,
    /// The kubelet that was there at the last look.
    kubelet: Option<Edition>,
    /// When the kubelet accepted the registration.
    registered: Option<Instant>,
    /// Whether the kubelet was listening to the list at the last look.
    was_heard: bool,
    /// When to try again.
    pub(crate) again: Option<Instant>,
    /// When the kubelet will have noticed the end of the connection before.
    free: Option<Instant>,
    /// Whether another agent served plugins at the last look, and may have ended since.
    is_after_another: bool,
    pause: Duration,
    attempts: Attempts,
    problem: Option<String>,
}

impl Endpoint {
    pub(crate) fn new(agent: &Agent, resource: Resource) -> Self {
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
            free: None,
            is_after_another: false,
            pause: FIRST_PAUSE,
            attempts: Attempts::default(),
            problem: None,
        }
    }

    /// Sends the devices to the listeners, if they have changed.
    pub(crate) fn offer(&self, shown: &Shown) {
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

    /// The resource, with the state of its registration.
    pub(crate) fn shown(&self, shown: &Shown) -> Shown {
        let mut problems = shown.problems.clone();
        problems.extend(self.problem.clone());
        Shown {
            registered: self.registered.is_some() && self.plugin.listeners.is_any(),
            problems,
            ..shown.clone()
        }
    }

    /// Opens the socket and registers the resource, if that is due.
    pub(crate) async fn maintain(&mut self, agent: &Agent, look: &Look) {
        if !look.is_serving {
            self.close();
            (self.again, self.problem) = (None, None);
            self.is_after_another = true;
            return;
        }
        self.follow(look.kubelet);
        let is_in_place = self.served.as_ref().is_some_and(|(l, _)| l.is_in_place());
        if !is_in_place {
            self.close();
        } else if let Some(since) = self.registered {
            self.again = (!self.was_heard).then(|| since + KUBELET_DEADLINE);
            return;
        }
        if look.kubelet.is_none() {
            (self.again, self.problem) = (None, Some(self.missing()));
            return;
        }
        let is_early = self.again.is_some_and(|again| again > Instant::now());
        if is_early || (!is_in_place && self.must_wait()) {
            return;
        }
        let name = self.plugin.resource.name.clone();
        if !self.attempts.may_try(&name) {
            let minutes = WINDOW.as_secs() / 60;
            let why = format!("the kubelet has dropped it {MOST} times in {minutes} minutes");
            (self.again, self.problem) = (Some(Instant::now() + LONGEST_PAUSE), Some(why));
            return;
        }
        let outcome = self.register(is_in_place).await;
        let metrics = &agent.metrics.resources;
        metrics.note_attempt(&name, outcome.is_ok());
        self.note(outcome);
    }

    fn note(&mut self, outcome: Result<(), String>) {
        let now = Instant::now();
        match outcome {
            Ok(()) => {
                (self.registered, self.again) = (Some(now), Some(now + KUBELET_DEADLINE));
                (self.pause, self.problem) = (FIRST_PAUSE, None);
                let resource = self.plugin.resource.name.as_str();
                info!(resource, "the kubelet has taken the resource {resource}");
            }
            Err(why) => {
                // Only a registration that succeeded can be undone, so failures do not count.
                self.attempts = Attempts::default();
                (self.again, self.problem) = (Some(now + self.pause), Some(why));
                self.pause = LONGEST_PAUSE.min(self.pause * 2);
            }
        }
    }

    /// Finds out whether the kubelet still has the resource. It does not when it is another
    /// kubelet, when it has stopped listening, or when it has not begun to listen in time.
    fn follow(&mut self, kubelet: Option<Edition>) {
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

    /// Whether the kubelet may still be connected to an earlier socket at this path, of this
    /// agent or of another one.
    fn must_wait(&mut self) -> bool {
        let now = Instant::now();
        if mem::take(&mut self.is_after_another) {
            self.free = Some(now + SETTLE);
        }
        if socket::has_listener(&self.path) {
            let path = &self.path;
            let why = format!("it waits until the agent before has closed its socket {path:?}");
            (self.free, self.problem) = (Some(now + SETTLE), Some(why));
        }
        self.again = self.free.filter(|free| *free > now);
        self.again.is_some()
    }

    /// Opens the socket, unless it is in place, and registers the resource with the kubelet.
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
        let failed =
            |cause: io::Error| Error::io(format!("failed to listen on {:?}", self.path), &cause);
        let listener = Listener::open(&self.path)?;
        let socket = listener.socket().and_then(UnixListener::from_std);
        let serving = self.plugin.clone().serve(socket.map_err(failed)?);
        self.served = Some((listener, tokio::spawn(serving).abort_handle()));
        Ok(())
    }

    /// Ends every connection, and removes the socket unless another one has replaced it.
    fn close(&mut self) {
        let Some((listener, serving)) = self.served.take() else {
            return;
        };
        (self.registered, self.again, self.problem) = (None, None, None);
        if self.plugin.listeners.is_any() {
            self.free = Some(Instant::now() + SETTLE);
        }
        // The listener is open until this function returns, so that no other agent has bound
        // its own socket at the path when it is removed.
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
