//! What all threads of a process share about this node's ENIs, beside the ledger. A plugin has
//! one thread, an agent has many.

use crate::registration::looks::Looks;
use crate::registration::prefixes::stock::Stock;
use crate::registration::subnets::Subnets;
use crate::registration::turns::Turns;

/// What the threads of a process share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Whether the process settles its ENIs again when a second look may come, so that it need
    /// not wait: an agent has other things to do meanwhile.
    pub(crate) comes_again: bool,
    /// The first looks, which a second look has to confirm.
    pub(crate) looks: Looks,
    /// The prefixes that are kept for networks without addresses.
    pub(crate) stock: Stock,
    /// How many addresses of the subnets are free.
    pub(crate) subnets: Subnets,
    /// Who asks EC2 for all.
    pub(crate) turns: Turns,
}

impl Shared {
    /// For an agent.
    pub(crate) fn of_agent() -> Self {
        Self {
            comes_again: true,
            ..Self::default()
        }
    }
}
