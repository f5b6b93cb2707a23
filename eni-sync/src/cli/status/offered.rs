//! The resources that are offered to the kubelet, with the room of their ENIs.

use std::path::Path;

use common::attach::inventory::Inventory;
use common::say;
use serde::Serialize;

use crate::agent::devices::room::{self, Offer};
use crate::agent::devices::shown::{self, Shown};
use crate::ledger::Contents;
use crate::plugin::socket;

/// An offered resource.
#[derive(Debug, Serialize)]
pub(super) struct Offered {
    pub(super) name: String,
    /// Whether the kubelet has accepted it and listens to its list.
    pub(super) registered: bool,
    pub(super) healthy: usize,
    pub(super) unhealthy: usize,
    pub(super) problems: Vec<String>,
    /// The devices of each ENI.
    pub(super) enis: Vec<Offer>,
}

impl Offered {
    /// All offered resources; none if no agent answers.
    pub(super) fn all(inventory: &Inventory, ledger: &Contents) -> Vec<Self> {
        if !socket::is_listened_on(Path::new(socket::PATH)) {
            return Vec::new();
        }
        let shown = shown::read().unwrap_or_else(|error| {
            say!("{error}");
            Vec::new()
        });
        let of = |shown| Self::of(shown, inventory, ledger);
        shown.into_iter().map(of).collect()
    }

    fn of(shown: Shown, inventory: &Inventory, ledger: &Contents) -> Self {
        let (healthy, unhealthy) = shown.counts();
        Self {
            healthy,
            unhealthy,
            enis: room::offers(&shown, inventory, ledger),
            name: shown.name,
            registered: shown.registered,
            problems: shown.problems,
        }
    }
}
