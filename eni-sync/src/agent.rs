//! The agent of a node: it registers what plugins hand over and what host-local
//! reserves, releases what is due when it is due, and compares the ledger with EC2.
//! The ledger is all it knows, so a crash costs nothing.

mod serve;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::error::{Error, Result};
use common::inventory::Eni;
use common::say;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::aws::Clients;
use crate::calls::Calls;
use crate::configuration::Configuration;
use crate::detached;
use crate::eni;
use crate::handover::{Post, Role};
use crate::hotplug;
use crate::hygiene::Hygiene;
use crate::inventory;
use crate::ledger::Ledger;
use crate::limits;
use crate::living;
use crate::looks::Looks;
use crate::metrics::Metrics;
use crate::monitor::{Desks, Health, Lasting, Monitor};
use crate::news::News;
use crate::pace::Pace;
use crate::pool;
use crate::reclaim::Reclaim;
use crate::reconcile;
use crate::registrar::Node;
use crate::release;
use crate::sight::Sight;
use crate::watch;

/// How long work in progress may take when the agent has to end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// After an error, the next try waits this long at least, and twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// So long after a look at EC2 that has left something open comes the next one.
const ANOTHER_LOOK: Duration = Duration::from_secs(61);
/// So long releases wait for registrations to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the threads of the agent share.
pub(crate) struct Agent {
    pub(crate) clients: Clients,
    pub(crate) ledger: Ledger,
    pub(crate) looks: Looks,
    pub(crate) configuration: Configuration,
    /// The path that plugins connect to.
    pub(crate) socket: PathBuf,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) desks: Desks,
    work: Mutex<Work>,
    changed: Condvar,
}

/// What is going on and what is to be done.
#[derive(Default)]
struct Work {
    /// How many plugins are connected.
    plugins: usize,
    /// How many requests of plugins are being served.
    requests: usize,
    /// Whether the ledger has changed since the keeper looked.
    is_news: bool,
    /// Whether no more plugins are accepted.
    is_closed: bool,
    /// Whether the agent has to end.
    is_ending: bool,
    /// What this agent is on its node.
    role: Role,
    /// Why it has to, when nobody has told it to.
    defect: Option<Error>,
}

/// Since when the agent sees what containers have left that have gone.
#[derive(Default)]
struct Left {
    hygiene: Hygiene,
    reclaim: Reclaim,
}

/// Runs the agent until a signal ends it.
///
/// # Errors
/// What keeps it from starting; code 7 or 5 naming the file or the path.
pub(crate) fn run(configuration: Configuration, socket: &Path) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Every thread inherits this, so that the signals wait for this one.
    let failed =
        |errno: nix::Error| Error::internal("failed to await signals").because(&errno.into());
    signals.thread_block().map_err(failed)?;

    limits::raise_files();
    let (post, waker) = Post::new(socket)?;
    let monitor = Monitor::new(&configuration, post.role())?;
    let calls = Arc::new(Calls::default());
    let agent = Arc::new(Agent {
        clients: Clients::new(Arc::new(Pace::new(Arc::clone(&calls)))),
        metrics: Metrics::new(&calls),
        desks: Desks::default(),
        ledger: Ledger::of_node(),
        looks: Looks::default(),
        configuration,
        socket: socket.to_owned(),
        health: Health::default(),
        work: Mutex::new(Work {
            role: post.role(),
            ..Work::default()
        }),
        changed: Condvar::new(),
    });
    agent.start_lasting("keeper", Agent::keep)?;
    agent.start_lasting("hotplug", hotplug::run)?;
    if !agent.configuration.networks.is_empty() {
        agent.start_lasting("watcher", watch::run)?;
    }
    agent.start_lasting("socket", move |agent| agent.serve(post))?;
    if let Some(monitor) = monitor {
        agent.start_lasting("metrics", move |agent| monitor.serve(agent))?;
    }
    notify_ready();
    signals.wait().map_err(failed)?;
    agent.drain(waker);
    agent.work().defect.take().map_or(Ok(()), Err)
}

/// Tells the service manager that sockets and watches are in place.
fn notify_ready() {
    if let Err(cause) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        say!("the service manager could not be told of the start: {cause}");
    }
}

impl Agent {
    fn start(
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
    fn start_lasting(
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

    /// Releases what is due, when it is due, and compares the ledger with EC2 from time
    /// to time.
    fn keep(self: &Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        let mut reconcile_at = Instant::now();
        let (mut left, mut sight) = (Left::default(), Sight::default());
        let mut news = News::default();
        while self.await_turn() {
            let (mut outcome, mut findings) = (Ok(()), Vec::new());
            if reconcile_at <= Instant::now() {
                let looked = self.reconcile();
                let is_open = matches!(looked, Ok(true));
                findings = self.examine(&mut sight);
                findings.extend(self.find_detached());
                outcome = looked.and(self.clean(&mut left, &mut findings));
                let interval = self.configuration.reconcile_interval();
                let until_next = match outcome {
                    Ok(()) if is_open => interval.min(ANOTHER_LOOK),
                    Ok(()) => interval,
                    Err(_) => pause,
                };
                reconcile_at = Instant::now() + until_next;
            }
            self.await_calm();
            let outcome = outcome.and(pool::keep(self, &mut findings));
            let outcome = outcome.and(self.release_due(&mut findings));
            for finding in news.among(findings) {
                say!("{finding}");
            }
            let wait = match outcome {
                Ok(next) => {
                    pause = FIRST_PAUSE;
                    next
                }
                Err(error) => {
                    say!("{error}; trying again in {pause:?}");
                    let wait = pause;
                    pause = LONGEST_PAUSE.min(pause * 2);
                    Some(wait)
                }
            };
            let until_reconcile = reconcile_at.saturating_duration_since(Instant::now());
            if !self.sleep(wait.unwrap_or(until_reconcile).min(until_reconcile)) {
                return;
            }
        }
    }

    /// Compares the ledger with EC2, and repairs what differs. Says whether one more look
    /// soon finds out what this one could not.
    pub(crate) fn reconcile(&self) -> Result<bool> {
        let outcome = self.clients.run(|aws| {
            let inventory = inventory::discover(aws)?;
            let of_pods = |eni: &&Eni| eni::require_managed(eni).is_ok();
            let enis = inventory.enis.iter().filter(of_pods).count();
            self.clients.pace().fit(enis);
            let node = Node {
                aws,
                ledger: &self.ledger,
                inventory: &inventory,
                looks: &self.looks,
            };
            reconcile::run(&node, self.configuration.grace(), &mut |_| {})
        });
        self.metrics.note_reconcile(&outcome);
        let report = outcome?;
        self.health.note_reconcile(Instant::now());
        if !report.is_empty() {
            say!("{report}");
        }
        Ok(report.needs_another_look())
    }

    /// Finds out what can be seen of the namespaces of pods, and ends the agent when that
    /// is too little. Where it cannot be found out, releases fail, and addresses are
    /// registered all the same. Returns what is not visible.
    fn examine(&self, sight: &mut Sight) -> Vec<String> {
        let unseen: Vec<String> = match living::of_node(&self.ledger) {
            Ok(living) => {
                if let Err(error) = sight.note(living.hidden_names().cloned().collect()) {
                    self.end(error);
                }
                let (hidden, unreadable) = (living.hidden(), living.unreadable());
                self.metrics.note_namespaces(hidden.len(), unreadable.len());
                hidden.chain(unreadable).map(Error::to_string).collect()
            }
            Err(error) => vec![error.to_string()],
        };
        self.health.note_unseen(unseen.clone());
        unseen
    }

    /// Finds out which pods run without their ENI, and returns what is to be said of them.
    fn find_detached(&self) -> Vec<String> {
        let found = detached::of_node(&self.ledger);
        if let Ok(found) = &found {
            self.metrics.note_detached(found.len());
        }
        found.unwrap_or_else(|error| vec![error.to_string()])
    }

    /// Ends the agent as a signal does.
    fn end(&self, defect: Error) {
        self.update(|work| work.defect = Some(defect));
        if let Err(errno) = kill(Pid::this(), Signal::SIGTERM) {
            say!("the agent cannot end: {errno}");
        }
    }

    /// Ends the attachments whose containers have gone, and releases what containers have
    /// left behind that no plugin has a record of.
    fn clean(&self, left: &mut Left, kept: &mut Vec<String>) -> Result<()> {
        let configuration = &self.configuration;
        let grace = configuration.grace();
        let ended = left.hygiene.run(configuration.cni_path(), grace, kept);
        if configuration.reclaim == Some(false) {
            return ended;
        }
        let released = left.reclaim.run(&configuration.networks, grace);
        ended.and(released.map(|count| self.metrics.note_reclaimed(count)))
    }

    /// Releases what is due, and returns when something will be.
    fn release_due(&self, kept: &mut Vec<String>) -> Result<Option<Duration>> {
        self.clients
            .run(|aws| release::release_in_batches(aws, &self.ledger, kept))
    }

    /// Waits until no plugin is being served, or for so long that releases must go on.
    fn await_calm(&self) {
        let busy = |work: &mut Work| work.requests > 0 && !work.is_ending;
        let waited = self.changed.wait_timeout_while(self.work(), PATIENCE, busy);
        drop(waited);
    }

    /// Sleeps until there is news; whether the agent goes on.
    fn sleep(&self, time: Duration) -> bool {
        let idle = |work: &mut Work| !work.is_news && !work.is_ending;
        let waited = self.changed.wait_timeout_while(self.work(), time, idle);
        let (mut work, _) = waited.unwrap_or_else(PoisonError::into_inner);
        work.is_news = false;
        !work.is_ending
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

    /// Notes what this agent is from now on.
    fn note_role(&self, role: Role) {
        if self.role() != role {
            self.update(|work| (work.role, work.is_news) = (role, true));
        }
    }

    /// Says that the ledger has changed.
    pub(crate) fn announce(&self) {
        self.update(|work| work.is_news = true);
    }

    /// Lets end what is being served, and what was connected when the agent was told to end:
    /// none of these plugins has to begin anew.
    fn drain(&self, waker: UnixStream) {
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

    fn update(&self, change: impl FnOnce(&mut Work)) {
        change(&mut self.work());
        self.changed.notify_all();
    }

    /// A thread that has ended in the middle has left nothing half done here.
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
