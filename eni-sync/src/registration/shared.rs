//! What all threads of a process know together about this node's ENIs, beside the ledger. A
//! plugin has one thread, and an agent many.

use crate::registration::looks::Looks;
use crate::registration::prefixes::stock::Stock;
use crate::registration::subnets::Subnets;

/// What the threads of a process share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// What EC2 has to show once more.
    pub(crate) looks: Looks,
    /// The prefixes that are kept for networks without addresses.
    pub(crate) stock: Stock,
    /// How many addresses are free.
    pub(crate) subnets: Subnets,
}
