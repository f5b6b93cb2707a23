//! The state that the threads of the agent share, and how they wait for each other.

use std::collections::BTreeSet;
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
use crate::agent::devices::shown::{self, Resources};
use crate::agent::handover::{Handover, Role};
use crate::agent::health::{Health, Lasting};
use crate::agent::kubernetes::events::Events;
use crate::agent::links::Links;
use crate::agent::logged::{Logged, Source};
use crate::agent::metrics::Metrics;
use crate::agent::readers::Readers;
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
const IDLE_DEADLINE: Duration = Duration::from_secs(30);

/// Makes the status page of this node, given the problems that the agent knows.
pub(crate) type Page = Box<dyn Fn(&[String]) -> Result<String> + Send + Sync>;

/// The state that the threads of the agent share.
pub(crate) struct Agent {
    pub(crate) clients: Clients,
    pub(crate) ledger: Ledger,
    pub(crate) shared: Shared,
    pub(crate) configuration: Configuration,
    /// The path that plugins connect to.
    pub(crate) socket: PathBuf,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) readers: Readers,
    pub(super) links: Links,
    pub(crate) resources: Resources,
    pub(crate) logged: Logged,
    pub(super) events: Events,
    pub(crate) page: Page,
    pub(super) work: Mutex<Work>,
    pub(super) changed: Condvar,
}

/// ENIs, their attachments and the indexes of their interfaces.
type Attachments = BTreeSet<(String, String, u32)>;

/// The work in progress.
#[derive(Default)]
pub(super) struct Work {
    /// How many plugins are connected.
    pub(super) plugins: usize,
    /// How many requests of plugins are being served.
    pub(super) requests: usize,
    /// Whether the ledger has changed since the keeper's last look.
    pub(super) is_news: bool,
    /// The attachments of the ENIs that were last compared with the ledger.
    pub(super) compared: Option<Attachments>,
    /// Whether the ledger is to be compared with EC2 at once.
    pub(super) is_compare_due: bool,
    /// Whether no more plugins are accepted.
    pub(super) is_closed: bool,
    /// Whether the agent has to end.
    pub(super) is_ending: bool,
    /// The role of this agent on its node.
    pub(super) role: Role,
    /// The identity of its socket for plugins, once it has one.
    pub(super) bound: Option<Bound>,
    /// Why the agent has to end, if that is not because of a signal.
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

    /// Ends the agent as a signal does, with this error.
    pub(super) fn end(&self, defect: Error) {
        self.update(|work| work.defect = Some(defect));
        if let Err(errno) = kill(Pid::this(), Signal::SIGTERM) {
            say!("the agent cannot end: {errno}");
        }
    }

    /// Waits until no plugin is being served, or until releases cannot wait any longer.
    pub(super) fn await_idle(&self) {
        let busy = |work: &mut Work| work.requests > 0 && !work.is_ending;
        let waited = self
            .changed
            .wait_timeout_while(self.work(), IDLE_DEADLINE, busy);
        drop(waited);
    }

    /// Sleeps until the ledger has changed. Returns whether the agent goes on.
    pub(super) fn sleep(&self, time: Duration) -> bool {
        let idle = |work: &mut Work| !work.is_news && !work.is_ending;
        let waited = self.changed.wait_timeout_while(self.work(), time, idle);
        let (mut work, _) = waited.unwrap_or_else(PoisonError::into_inner);
        work.is_news = false;
        !work.is_ending
    }

    /// How long it is until the next second look at EC2 that a claim waits for.
    pub(super) fn until_look(&self) -> Option<Duration> {
        self.shared.looks.until_next(Instant::now())
    }

    /// The context for changes to addresses on the ENIs of `inventory`.
    pub(crate) fn node<'a>(&'a self, aws: &'a Aws, inventory: &'a Inventory) -> Node<'a> {
        Node {
            aws,
            ledger: &self.ledger,
            inventory,
            shared: &self.shared,
        }
    }

    /// Reports pods that run without an address in the VPC: in the log, and as Events if that
    /// is configured.
    pub(super) fn tell_without(&self, source: Source, found: Vec<Without>) {
        for without in self.logged.note_without(source, found) {
            self.events.tell(without);
        }
    }

    /// The current role of this agent on its node.
    pub(crate) fn role(&self) -> Role {
        self.work().role
    }

    /// Waits while another agent of the node does the work. Returns whether this one goes on.
    pub(crate) fn await_turn(&self) -> bool {
        let rests = |work: &mut Work| work.role == Role::Relieved && !work.is_ending;
        let waited = self.changed.wait_while(self.work(), rests);
        let work = waited.unwrap_or_else(PoisonError::into_inner);
        !work.is_ending
    }

    /// Whether a plugin that connects now reaches this agent. Its role is updated a little
    /// later than that changes.
    pub(crate) fn is_serving(&self) -> bool {
        let (role, bound) = {
            let work = self.work();
            (work.role, work.bound.clone())
        };
        role == Role::Serving && bound.is_some_and(|bound| bound.is_in_place())
    }

    /// Notes the role and the socket of this agent.
    pub(super) fn note_handover(&self, handover: &Handover) {
        let (role, bound) = (handover.role(), handover.bound());
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

    /// Removes the resources of an earlier agent from the file, if this agent serves and offers
    /// none.
    pub(super) fn forget_resources(&self) {
        if self.configuration.resources.is_empty()
            && self.role() == Role::Serving
            && let Err(error) = shown::forget()
        {
            say!("{error}");
        }
    }

    /// Sets up the ENIs for pods that are down, unless the configuration forbids it.
    pub(super) fn keep_links(&self) {
        if self.configuration.links == Some(false) || self.role() == Role::Relieved {
            return;
        }
        if let Err(error) = self.links.keep() {
            say!("looking for ENIs that are down: {error}");
        }
    }

    /// Notes an error about a missing permission that pods need.
    pub(super) fn note_refusal(&self, error: &Error) {
        if error.code == NOT_PERMITTED {
            self.health.note_refusal(error.to_string());
            self.resources.waker().wake();
        }
    }

    /// Why EC2 assigns no addresses at this time, as far as is known.
    pub(crate) fn refusal(&self) -> Option<String> {
        let interval = self.configuration.longest_interval();
        self.health.refusal(interval, Instant::now())
    }

    /// Notes that the ledger has changed, and wakes the keeper.
    pub(crate) fn announce(&self) {
        self.update(|work| work.is_news = true);
    }

    /// Notes how the ENIs are attached that are compared with the ledger now.
    pub(super) fn note_compared(&self, attachments: Attachments) {
        self.work().compared = Some(attachments);
    }

    /// Has the keeper compare the ledger with EC2 at once if these attachments are not those that
    /// it compared last.
    pub(super) fn compare_if_new(&self, attachments: &Attachments) {
        let compared = self.work().compared.clone();
        // Before the first comparison, that one is about to come.
        if compared.is_some_and(|compared| compared != *attachments) {
            self.update(|work| (work.is_compare_due, work.is_news) = (true, true));
        }
    }

    /// Whether a comparison was due at once, which is not so any more.
    pub(super) fn take_compare_due(&self) -> bool {
        std::mem::take(&mut self.work().is_compare_due)
    }

    /// Waits until the plugins are served that were connected when the agent was told to end:
    /// none of them has to start again.
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

    /// The lock is also used after a panic, which leaves nothing half done here.
    pub(super) fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
