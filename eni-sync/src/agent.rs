//! The agent of a node: it registers the addresses that plugins request and that host-local
//! reserves, releases addresses when they are due, and compares the ledger with EC2. All its
//! state is in the ledger, so a crash loses nothing.

mod attempts;
mod auto;
pub(crate) mod configuration;
pub(crate) mod devices;
mod enis;
mod found;
mod handover;
mod health;
mod hotplug;
mod http;
mod keeper;
mod kubernetes;
mod links;
mod logged;
mod metrics;
mod news;
mod orphans;
mod pace;
mod plugins;
mod pool;
mod prefixes;
mod readers;
mod reclaim;
pub(crate) mod reserved;
mod serve;
mod shared;
mod visibility;
mod watch;

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use common::error::{Error, ErrorCode, Result};
use common::say;
use nix::sys::signal::{SigSet, Signal};
use tracing::info;

use self::configuration::Configuration;
use self::devices::shown::Resources;
use self::handover::Handover;
use self::health::Health;
use self::http::Monitor;
use self::kubernetes::events::Events;
use self::links::Links;
use self::logged::Logged;
use self::metrics::Metrics;
use self::readers::Readers;
pub(crate) use self::shared::Page;
use self::shared::{Agent, Work};
use crate::ledger::Ledger;
use crate::limits;
use crate::registration::shared::Shared;
use crate::vpc::calls::Calls;
use crate::vpc::clients::Clients;
use crate::vpc::rate_limit::RateLimit;

/// Runs the agent until a signal ends it.
///
/// # Errors
/// What prevents the start; code 7 or 5 naming the file or the path.
pub(crate) fn run(configuration: Configuration, socket: &Path, page: Page) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Every thread inherits this mask, so that only this thread gets the signals.
    let failed =
        |errno: nix::Error| Error::internal("failed to await signals").because(&errno.into());
    signals.thread_block().map_err(failed)?;

    limits::raise_files();
    logged::start(&configuration, socket);
    let (handover, waker) = Handover::new(socket)?;
    let monitor = Monitor::new(&configuration, handover.role())?;
    let calls = Arc::new(Calls::default());
    let (events, to_tell) = Events::new(configuration.kubernetes.events);
    let agent = Arc::new(Agent {
        clients: Clients::new(Arc::new(RateLimit::new(Arc::clone(&calls)))),
        metrics: Metrics::new(&calls),
        readers: Readers::default(),
        links: Links::default(),
        resources: Resources::new()?,
        logged: Logged::default(),
        events,
        page,
        ledger: Ledger::of_node(),
        shared: Shared::of_agent(),
        configuration,
        socket: socket.to_owned(),
        health: Health::default(),
        work: Mutex::new(Work {
            role: handover.role(),
            bound: handover.bound(),
            ..Work::default()
        }),
        changed: Condvar::new(),
    });
    match agent.ledger.exclude(&agent.configuration.exclude) {
        // Until the list can be read, EC2 is not asked to choose addresses.
        Err(error) if error.code == ErrorCode::DECODING => say!("{error}"),
        // Without the file, plugins would use an older list, or none.
        written => written?,
    }
    agent.start_lasting("keeper", Agent::keep)?;
    agent.start_lasting("hotplug", hotplug::run)?;
    agent.start_lasting("orphans", orphans::run)?;
    agent.start_lasting("plugins", plugins::run)?;
    if !agent.configuration.enis.is_empty() {
        agent.start_lasting("enis", enis::run)?;
    }
    kubernetes::start(&agent, to_tell)?;
    if !agent.configuration.networks.is_none() {
        agent.start_lasting("watcher", watch::run)?;
    }
    devices::start(&agent)?;
    agent.start_lasting("socket", move |agent| agent.serve(handover))?;
    if let Some(monitor) = monitor {
        agent.start_lasting("metrics", move |agent| monitor.serve(agent))?;
    }
    notify_ready();
    signals.wait().map_err(failed)?;
    info!("the agent ends: it serves what is connected first");
    agent.drain(waker);
    agent.work().defect.take().map_or(Ok(()), Err)
}

/// Tells the service manager that sockets and watches are ready.
fn notify_ready() {
    if let Err(cause) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        say!("the service manager could not be told of the start: {cause}");
    }
}
