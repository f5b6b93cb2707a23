//! The device plugins of this node, by which the scheduler knows how many addresses an ENI has
//! room for, and which whole ENIs a pod can have. One thread examines the node whenever
//! something changes, and one communicates with the kubelet.

mod api;
mod endpoint;
mod facts;
mod grpc;
mod kubelet;
mod look;
mod offer;
mod plugin;
pub(crate) mod room;
pub(crate) mod shown;

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::attach::inventory::DIRECTORY;
use common::error::{Error, Result};
use common::files::file::Edition;
use common::kernel::netlink::{Events, Subject};
use common::say;
use nix::sys::inotify::{InitFlags, Inotify};
use tokio::runtime::Builder;
use tokio::sync::watch;

use crate::agent::devices::api::KUBELET_SOCKET;
use crate::agent::devices::facts::Facts;
use crate::agent::devices::look::Look;
use crate::agent::devices::offer::Offered;
use crate::agent::shared::Agent;
use crate::agent::watch::add_watch;
use crate::plugin::socket;

/// The pause between two looks, so that changes at the same time need one look.
const CHANGES_SETTLE: Duration = Duration::from_millis(100);
/// The pause after an error of the watch itself.
const PAUSE: Duration = Duration::from_secs(5);

/// Starts both threads, if the configuration has resources.
///
/// # Errors
/// When a thread cannot be started.
pub(crate) fn start(agent: &Arc<Agent>) -> Result<()> {
    if agent.configuration.resources.is_empty() {
        agent.forget_resources();
        return Ok(());
    }
    for resource in &agent.configuration.resources {
        agent.metrics.resources.begin(&resource.name);
    }
    let (sender, looks) = watch::channel(Look::default());
    agent.start_lasting("kubelet", move |agent| {
        let runtime = Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(kubelet::run(agent, looks)),
            Err(cause) => say!("resources are not offered: {cause}"),
        }
    })?;
    agent.start_lasting("resources", move |agent| watch_for_ever(agent, &sender))
}

fn watch_for_ever(agent: &Arc<Agent>, looks: &watch::Sender<Look>) {
    let mut offered = None;
    loop {
        if let Err(error) = watch_node(agent, looks, &mut offered) {
            note_unseen(agent, &error);
            // Without a watch, the node is examined periodically.
            if look_at_node(agent, looks, &mut offered).is_err() {
                looks.send_modify(|look| place(agent, look));
            }
        }
        thread::sleep(PAUSE);
    }
}

/// Logs why the node could not be watched or examined, once for each reason.
fn note_unseen(agent: &Agent, error: &Error) {
    let finding = format!("the resources of this node: {error}; trying again every {PAUSE:?}");
    if agent.resources.note_unseen(Some(finding.clone())) {
        say!("{finding}");
    }
}

/// Examines the node, and again whenever something changes that a resource depends on.
fn watch_node(
    agent: &Agent,
    looks: &watch::Sender<Look>,
    offered: &mut Option<Offered>,
) -> Result<()> {
    let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
    let inotify = Inotify::init(flags).map_err(failed)?;
    let events = Events::open(Subject::Links)?;
    loop {
        // The watch comes first, so that no change is missed between the two.
        watch_directories(agent, &inotify)?;
        look_at_node(agent, looks, offered)?;
        agent.resources.note_unseen(None);
        await_change(agent, &inotify, &events)?;
    }
}

/// Examines the node once. If that fails, the offer to the kubelet stays unchanged, because
/// nothing newer is known.
fn look_at_node(
    agent: &Agent,
    looks: &watch::Sender<Look>,
    offered: &mut Option<Offered>,
) -> Result<()> {
    let facts = Facts {
        refusal: agent.refusal(),
        free: agent.shared.subnets.free(),
        ..Facts::read(&agent.ledger)?
    };
    let known = match offered.take() {
        Some(offered) => offered,
        None => Offered::of(&written(), &facts),
    };
    let resources = offered
        .insert(known)
        .look(&agent.configuration.resources, &facts);
    looks.send_modify(|look| {
        look.resources = resources;
        place(agent, look);
    });
    Ok(())
}

/// Finds out whether this agent has to register, and with which kubelet. This is also done
/// while the node cannot be examined, because another agent may take over.
fn place(agent: &Agent, look: &mut Look) {
    look.is_serving = agent.is_serving();
    let directory = agent.configuration.device_plugin_path();
    look.kubelet = Edition::of(&directory.join(KUBELET_SOCKET));
}

/// The offer that an earlier agent has written down. Without it, only visible devices are
/// offered.
fn written() -> Vec<shown::Shown> {
    shown::read().unwrap_or_else(|error| {
        say!("{error}");
        Vec::new()
    })
}

/// Watches the directories of all files that a resource depends on: the inventory, the ledger,
/// the records of whole devices, and the sockets.
fn watch_directories(agent: &Agent, inotify: &Inotify) -> Result<()> {
    add_watch(inotify, agent.configuration.device_plugin_path())?;
    add_watch(inotify, Path::new(DIRECTORY))?;
    if let Some(directory) = agent.socket.parent() {
        add_watch(inotify, directory)?;
    }
    for directory in host_device::records().directories()? {
        add_watch(inotify, &directory)?;
    }
    for directory in agent.ledger.directories()? {
        add_watch(inotify, &directory)?;
    }
    Ok(())
}

/// Waits until something changes, or until the last comparison with EC2 may be too old.
fn await_change(agent: &Agent, inotify: &Inotify, events: &Events) -> Result<()> {
    let time = agent.configuration.reconcile_interval();
    let files = [inotify.as_fd(), events.changed(), agent.resources.woken()];
    let waited = socket::wait(time, &files);
    waited.map_err(|cause| Error::internal("failed to wait for a change").because(&cause))?;
    thread::sleep(CHANGES_SETTLE);
    agent.resources.clear_wakes();
    events.wait(Instant::now())?;
    match inotify.read_events() {
        Ok(_) | Err(nix::Error::EAGAIN) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

fn failed(errno: nix::Error) -> Error {
    Error::internal("failed to watch the resources of this node").because(&errno.into())
}
