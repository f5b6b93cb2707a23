//! Reports what is unknown about the ENIs when the addresses are released: requests to EC2
//! whose answers are not known, and files of the ledger that cannot be read. These stay.

use common::error::Result;
use common::text::printable;

use crate::cli::output;
use crate::ledger::{About, Ledger};

/// Prints them; true if there are any.
///
/// # Errors
/// Code 5 naming what cannot be read.
pub(super) fn print_all() -> Result<bool> {
    let mut lines = Vec::new();
    for eni in Ledger::of_node().enis()? {
        let damage = eni.damage()?;
        let is_damaged = |of: About| damage.iter().any(|damage| damage.about == of);
        // A request that cannot be read does not end by itself.
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
