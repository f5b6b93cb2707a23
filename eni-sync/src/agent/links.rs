//! Keeps the ENIs for pods up. With some node images, an ENI that is attached after the boot
//! stays down, with an MTU of 1500. Nothing else of an interface is changed, and nothing of one
//! that is up: it has been configured.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use common::attach::inventory::{Eni, Inventory};
use common::error::{Error, Result};
use common::kernel::netlink::{Link, Netlink};
use tracing::warn;

use crate::agent::attempts::{Attempts, MOST, WINDOW};
use crate::agent::news::LastLook;
use crate::provision::link::{self, SETTLED};
use crate::vpc::eni;

/// The interfaces of the ENIs for pods.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Since when each interface has had its index and its name.
    seen: HashMap<(u32, String), Instant>,
    attempts: Attempts,
    /// The failures of the last look.
    said: LastLook,
}

impl Links {
    /// Sets up each ENI for pods that is down and has had its name for some time.
    ///
    /// # Errors
    /// Code 5 or 6 naming the inventory, 999 when the kernel does not list its links.
    pub(crate) fn keep(&self) -> Result<()> {
        let mut netlink = Netlink::open()?;
        let links = netlink.links()?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.see(&links);
        if links.iter().all(|link| link.up) {
            return Ok(());
        }
        let inventory = Inventory::read()?.unwrap_or_default();
        let of_pods = |eni: &&Eni| eni::require_managed(eni).is_ok();
        let mut findings = Vec::new();
        for eni in inventory.enis.iter().filter(of_pods) {
            let is_its =
                |link: &&Link| link.hardware_mac() == eni.mac && link.name == eni.interface;
            // A port of a bridge or a bond is configured with it.
            let is_due = |link: &&Link| !link.up && link.controller.is_none();
            let Some(link) = links.iter().filter(is_its).find(is_due) else {
                continue;
            };
            if known.has_settled(link) {
                let outcome = known.set_up(&mut netlink, eni, link);
                findings.extend(outcome.err().map(|error| error.to_string()));
            }
        }
        for finding in known.said.replace(findings) {
            warn!("{finding}");
        }
        Ok(())
    }
}

impl Known {
    fn see(&mut self, links: &[Link]) {
        let key = |link: &Link| (link.index, link.name.clone());
        let now = Instant::now();
        let since = |link: &Link| self.seen.get(&key(link)).copied().unwrap_or(now);
        self.seen = links.iter().map(|link| (key(link), since(link))).collect();
    }

    fn has_settled(&self, link: &Link) -> bool {
        let since = self.seen.get(&(link.index, link.name.clone()));
        since.is_some_and(|since| since.elapsed() >= SETTLED)
    }

    fn set_up(&mut self, netlink: &mut Netlink, eni: &Eni, link: &Link) -> Result<()> {
        let (name, id) = (&link.name, &eni.id);
        if !self.attempts.may_try(id) {
            let minutes = WINDOW.as_secs() / 60;
            let why = format!(
                "it was to be set up {MOST} times in {minutes} minutes, and stays down for some \
                 minutes now"
            );
            return Err(Error::internal(format!("{name} of {id} is down")).with_details(why));
        }
        link::set_up(netlink, id, link)
    }
}
