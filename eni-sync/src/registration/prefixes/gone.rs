//! Forgets the prefixes of an ENI that has left the node with them, as addresses are: when two
//! looks at EC2, some time apart, say so. One that is attached to no instance may come back.

use common::error::Result;

use super::compare::{self, Differences};
use crate::ledger::{Absence, EniLedger, Prefix, now};
use crate::registration::node::{Node, TURN_DEADLINE};

/// Forgets the prefixes of an ENI that is not among those of the node, as far as EC2 says that
/// it is gone or on another instance.
///
/// # Errors
/// Those of looking at the ENI, and code 5 naming a file of the ledger.
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

/// Whether one more look that does not show a prefix says something new.
fn is_worth_a_look(prefix: &Prefix) -> bool {
    let entry = &prefix.entry;
    match entry.absence(now()) {
        Absence::Noted(noted) => *noted != *entry,
        Absence::Proven => true,
        Absence::TooEarly => false,
    }
}
