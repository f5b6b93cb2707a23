//! The context for changes to the addresses of this node's ENIs.

use std::time::Duration;

use common::attach::inventory::Inventory;

use crate::ledger::Ledger;
use crate::registration::shared::Shared;
use crate::vpc::clients::Aws;

/// How long an attachment waits for its turn while processes before it ask AWS.
pub(crate) const TURN_DEADLINE: Duration = Duration::from_secs(100);

/// Everything that is needed to change the addresses of this node's ENIs.
pub(crate) struct Node<'a> {
    pub(crate) aws: &'a Aws,
    pub(crate) ledger: &'a Ledger,
    pub(crate) inventory: &'a Inventory,
    pub(crate) shared: &'a Shared,
}
