//! What nobody knows of the ENIs when the addresses are released: what EC2 was asked for and has
//! not answered, and what cannot be read of the ledger. It stays, and is named.

use common::error::Result;
use common::text::printable;

use crate::cli::output;
use crate::ledger::{About, Ledger};

/// Names all of it; true if there is any.
///
/// # Errors
/// Code 5 naming what cannot be looked at.
pub(super) fn name() -> Result<bool> {
    let mut lines = Vec::new();
    for eni in Ledger::of_node().enis()? {
        let damage = eni.damage()?;
        let is_damaged = |of: About| damage.iter().any(|damage| damage.about == of);
        // What cannot be read does not go by itself.
        if eni.is_unheard()? && !is_damaged(About::Asked) && !is_damaged(About::Unheard) {
            lines.push(format!(
                "{}: EC2 was asked for more, and its answer was lost: what it gave is seen within \
                 a minute, so do this again then",
                eni.id()
            ));
        }
        let kept = damage.iter();
        lines.extend(kept.map(|damage| format!("kept: {}", damage.error)));
    }
    for line in &lines {
        output::print(format!("{}\n", printable(line)).as_bytes())?;
    }
    Ok(!lines.is_empty())
}
