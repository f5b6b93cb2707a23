//! What the threads of the agent share, and how they wait for each other.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::attach::inventory::Inventory;
use common::error::{Error, Result};
use common::say;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::configuration::Configuration;
use crate::agent::desk::Desks;
use crate::agent::devices::shown::{self, Resources};
use crate::agent::handover::{Post, Role};
use crate::agent::health::{Health, Lasting};
use crate::agent::kubernetes::events::Events;
use crate::agent::links::Links;
use crate::agent::metrics::Metrics;
use crate::agent::said::{Said, Source};
use crate::ledger::Ledger;
use crate::plugin::socket::Bound;
use crate::registration::node::Node;
use crate::registration::shared::Shared;
use crate::registration::without::Without;
use crate::vpc::clients::{Aws, Clients};
use crate::vpc::failure::NOT_PERMITTED;

/// How long work in progress may take when the agent has to end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// How long releases wait for registrations to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes the page of this node, given what the agent knows to be wrong.
pub(crate) type Page = Box<dyn Fn(&[String]) -> Result<String> + Send + Sync>;

/// What the threads of the agent share.
pub(crate) struct Agent {
    pub(crate) clients: Clients,
    pub(crate) ledger: Ledger,
    pub(crate) shared: Shared,
    pub(crate) configuration: Configuration,
    /// The path that plugins connect to.
    pub(crate) socket: PathBuf,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) desks: Desks,
    pub(super) links: Links,
    pub(crate) resources: Resources,
    pub(crate) said: Said,
    pub(super) events: Events,
    pub(crate) page: Page,
    pub(super) work: Mutex<Work>,
    pub(super) changed: Condvar,
}

/// What is going on and what is to be done.
#[derive(Default)]
pub(super) struct Work {
    /// How many plugins are connected.
    pub(super) plugins: usize,
    /// How many requests of plugins are being served.
    pub(super) requests: usize,
    /// Whether the ledger has changed since the keeper looked.
    pub(super) is_news: bool,
    /// Whether no more plugins are accepted.
    pub(super) is_closed: bool,
    /// Whether the agent has to end.
    pub(super) is_ending: bool,
    /// What this agent is on its node.
    pub(super) role: Role,
    /// Its socket for plugins, once it has one.
    pub(super) bound: Option<Bound>,
    /// Why it has to, when nobody has told it to.
    pub(super) defect: Option<Error>,
}

impl Agent {
    pub(super) fn start(
        self: &Arc<Self>,
        name: &str,
        work: impl FnOnce(&Arc<Self>) + Send + 'static,
    ) -> Result<()> {
        let agent = Arc::clone(self);
        let thread = thread::Builder::new().name(name.to_owned());
        let started = thread.spawn(move || work(&agent));
        let msg = || format!("failed to start the thread {name}");
        started
            .map(drop)
            .map_err(|cause| Error::internal(msg()).because(&cause))
    }

    /// Starts a thread without which the agent is not healthy.
    pub(super) fn start_lasting(
        self: &Arc<Self>,
        name: &'static str,
        work: impl FnOnce(&Arc<Self>) + Send + 'static,
    ) -> Result<()> {
        self.start(name, move |agent| {
            let _lasting = Lasting {
                health: &agent.health,
                thread: name,
            };
            work(agent);
        })
    }

    /// Ends the agent as a signal does.
    pub(super) fn end(&self, defect: Error) {
        self.update(|work| work.defect = Some(defect));
        if let Err(errno) = kill(Pid::this(), Signal::SIGTERM) {
            say!("the agent cannot end: {errno}");
        }
    }

    /// Waits until no plugin is being served, at most until releases must go on.
    pub(super) fn await_calm(&self) {
        let busy = |work: &mut Work| work.requests > 0 && !work.is_ending;
        let waited = self.changed.wait_timeout_while(self.work(), PATIENCE, busy);
        drop(waited);
    }

    /// Sleeps until there is news; whether the agent goes on.
    pub(super) fn sleep(&self, time: Duration) -> bool {
        let idle = |work: &mut Work| !work.is_news && !work.is_ending;
        let waited = self.changed.wait_timeout_while(self.work(), time, idle);
        let (mut work, _) = waited.unwrap_or_else(PoisonError::into_inner);
        work.is_news = false;
        !work.is_ending
    }

    /// What it takes to change addresses on the ENIs of `inventory`.
    pub(crate) fn node<'a>(&'a self, aws: &'a Aws, inventory: &'a Inventory) -> Node<'a> {
        Node {
            aws,
            ledger: &self.ledger,
            inventory,
            shared: &self.shared,
        }
    }

    /// Tells which pods run without an address in the VPC: in the log, and in Kubernetes where
    /// that is configured.
    pub(super) fn tell_without(&self, source: Source, found: Vec<Without>) {
        for without in self.said.note_without(source, found) {
            self.events.tell(without);
        }
    }

    /// What this agent is on its node at this moment.
    pub(crate) fn role(&self) -> Role {
        self.work().role
    }

    /// Rests while another agent of the node does the work; whether this one goes on.
    pub(crate) fn await_turn(&self) -> bool {
        let rests = |work: &mut Work| work.role == Role::Relieved && !work.is_ending;
        let waited = self.changed.wait_while(self.work(), rests);
        let work = waited.unwrap_or_else(PoisonError::into_inner);
        !work.is_ending
    }

    /// Whether a plugin that connects now comes to this agent. Its role says so some time
    /// longer, until it has found out that another agent has taken the path.
    pub(crate) fn is_serving(&self) -> bool {
        let (role, bound) = {
            let work = self.work();
            (work.role, work.bound.clone())
        };
        role == Role::Serving && bound.is_some_and(|bound| bound.is_in_place())
    }

    /// Notes what this agent is from now on.
    pub(super) fn note_post(&self, post: &Post) {
        let (role, bound) = (post.role(), post.bound());
        let is_other = {
            let work = self.work();
            work.role != role || work.bound != bound
        };
        if is_other {
            self.update(|work| (work.role, work.bound, work.is_news) = (role, bound, true));
            self.resources.waker().wake();
            self.forget_resources();
        }
    }

    /// Has nobody shown the resources of an agent before this one, where this one serves and
    /// offers none.
    pub(super) fn forget_resources(&self) {
        if self.configuration.resources.is_empty()
            && self.role() == Role::Serving
            && let Err(error) = shown::forget()
        {
            say!("{error}");
        }
    }

    /// Sets up the ENIs for pods that are down, unless the configuration leaves them alone.
    pub(super) fn keep_links(&self) {
        if self.configuration.links == Some(false) || self.role() == Role::Relieved {
            return;
        }
        if let Err(error) = self.links.keep() {
            say!("looking for ENIs that are down: {error}");
        }
    }

    /// Notes that EC2 does not permit something that pods need.
    pub(super) fn note_refusal(&self, error: &Error) {
        if error.code == NOT_PERMITTED {
            self.health.note_refusal(error.to_string());
            self.resources.waker().wake();
        }
    }

    /// Why EC2 gives pods no addresses at this time, as far as is known.
    pub(crate) fn refusal(&self) -> Option<String> {
        let interval = self.configuration.longest_interval();
        self.health.refusal(interval, Instant::now())
    }

    /// Says that the ledger has changed.
    pub(crate) fn announce(&self) {
        self.update(|work| work.is_news = true);
    }

    /// Lets end what is being served, and what was connected when the agent was told to end:
    /// none of these plugins has to begin anew.
    pub(super) fn drain(&self, waker: UnixStream) {
        self.update(|work| work.is_ending = true);
        drop(waker);
        let busy = |work: &mut Work| work.plugins > 0 || !work.is_closed;
        let waited = self
            .changed
            .wait_timeout_while(self.work(), DRAIN_DEADLINE, busy);
        let (work, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if work.plugins > 0 {
            say!("{} plugins were not served in time", work.plugins);
        }
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Work)) {
        change(&mut self.work());
        self.changed.notify_all();
    }

    /// A thread that has ended in the middle has left nothing half done here.
    pub(super) fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
