//! Keeps the inventory of ENIs current when an ENI is attached, detached or renamed, because
//! `masterSelector` reads it, and has interfaces set up that are down. The kernel announces
//! changes of links; the metadata, which lag, show which links are ENIs.

use std::collections::BTreeSet;
use std::slice::Iter;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::attach::inventory::Inventory;
use common::error::Result;
use common::kernel::netlink::{Events, Link, Netlink, Subject};
use common::say;

use crate::agent::pace::Pace;
use crate::agent::shared::Agent;
use crate::deadline::Deadline;
use crate::vpc::inventory;

/// When to look again after a change that the metadata did not show yet.
const LOOKS: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
    Duration::from_secs(60),
];
/// The longest time between two looks when nothing changes.
const IDLE: Duration = Duration::from_secs(3600);
/// The pause after an error of the watch itself.
const PAUSE: Duration = Duration::from_secs(5);

/// Watches the links of the node for ever.
pub(crate) fn run(agent: &Arc<Agent>) {
    loop {
        if let Err(error) = watch(agent) {
            say!("watching for ENIs: {error}");
        }
        thread::sleep(PAUSE);
    }
}

fn watch(agent: &Agent) -> Result<()> {
    let events = Events::open(Subject::Links)?;
    let mut netlink = Netlink::open()?;
    let mut known = hardware(&netlink.links()?);
    let mut schedule = Schedule::new(Instant::now());
    agent.keep_links();
    loop {
        if events.wait(schedule.next)? {
            agent.keep_links();
            let links = hardware(&netlink.links()?);
            // Interfaces of pods are not ENIs, so their changes do not count.
            if links != known {
                known = links;
                schedule.note_change(Instant::now());
            }
            // Changes that come all the time must not put a look off.
            if Instant::now() < schedule.next {
                continue;
            }
        }
        schedule.begin(Instant::now());
        if let Err(error) = refresh(agent) {
            say!("looking for ENIs: {error}");
        }
        agent.keep_links();
    }
}

/// When to look for ENIs.
struct Schedule {
    next: Instant,
    /// The pauses between the looks that follow.
    pauses: Iter<'static, Duration>,
    pace: Pace,
}

impl Schedule {
    fn new(now: Instant) -> Self {
        let mut pauses = LOOKS.iter();
        let first = pauses.next().copied().unwrap_or(IDLE);
        Self {
            next: now + first,
            pauses,
            pace: Pace::default(),
        }
    }

    /// Notes a change of the links: it is looked at as soon as the pace allows it.
    fn note_change(&mut self, now: Instant) {
        self.next = self.pace.next(now);
        self.pauses = LOOKS.iter();
    }

    /// Notes that a look begins.
    fn begin(&mut self, now: Instant) {
        self.pace.note(now);
        let pause = self.pauses.next().copied().unwrap_or(IDLE);
        self.next = (now + pause).max(self.pace.next(now));
    }
}

/// The links that may be ENIs: the name and MAC address of each link without a parent in
/// another namespace.
fn hardware(links: &[Link]) -> BTreeSet<(String, String)> {
    let own = links.iter().filter(|link| link.parent_netns_id.is_none());
    own.map(|link| (link.name.clone(), link.hardware_mac().to_owned()))
        .collect()
}

/// Asks EC2 for the ENIs when the metadata and the inventory have different ones or one was away,
/// and corrects the names of the interfaces. What the ledger has of ENIs that are attached anew is
/// compared at once: while they were away, others may have had their addresses.
fn refresh(agent: &Agent) -> Result<()> {
    agent.clients.run(|aws| {
        let shown = aws.imds()?.macs()?;
        // An inventory that cannot be read, or is of an earlier version, is written again.
        let written = Inventory::read_whole().ok().flatten().unwrap_or_default();
        let known: BTreeSet<String> = written.enis.iter().map(|eni| eni.mac.clone()).collect();
        let current = match shown == known && !inventory::is_outdated(&written) {
            true => inventory::rename(Deadline::default()).map(|()| written)?,
            false => inventory::discover(aws)?,
        };
        agent.compare_if_new(&inventory::attachments(&current));
        Ok(())
    })
}
