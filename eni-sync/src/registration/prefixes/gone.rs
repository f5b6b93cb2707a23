//! Forgets the prefixes of an ENI that is not on this node any more, when two looks at EC2 some
//! time apart have shown that. An ENI that is attached to no instance may come back.

use common::error::Result;

use super::compare::{self, Differences};
use crate::ledger::{Absence, EniLedger, Prefix, now};
use crate::registration::node::{Node, TURN_DEADLINE};

/// Forgets the prefixes of an ENI that is not in the inventory, if EC2 shows that it does not
/// exist or is on another instance. Returns the differences.
///
/// # Errors
/// Those of describing the ENI, and code 5 naming a file of the ledger.
pub(crate) fn forget(node: &Node<'_>, ledger: &EniLedger) -> Result<Differences> {
    if !ledger.read_prefixes()?.iter().any(is_worth_a_look) {
        return Ok(Differences::default());
    }
    let _turn = ledger.take_turn(TURN_DEADLINE)?;
    let eni = ledger.id();
    let actual = node.aws.ec2(&node.inventory.region)?.eni(eni);
    let actual = actual.map_err(|failure| failure.error(&format!("look at {eni}")))?;
    let own = node.inventory.instance_id.as_str();
    let may_be_back = actual.is_some_and(|eni| eni.instance_id.is_none_or(|id| id == own));
    if may_be_back {
        return Ok(Differences::default());
    }
    compare::note_gone(&ledger.open()?)
}

/// Whether another look that does not show a prefix would change its entry.
fn is_worth_a_look(prefix: &Prefix) -> bool {
    let entry = &prefix.entry;
    match entry.absence(now()) {
        Absence::Noted(noted) => *noted != *entry,
        Absence::Proven => true,
        Absence::TooEarly => false,
    }
}
