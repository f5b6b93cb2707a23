//! `eni-sync sync --once`: one comparison of the ledger with EC2, for an operator.

use std::io::{self, IsTerminal};

use common::attach::inventory::{Eni, Inventory};
use common::error::{Errors, Result};
use common::say;
use indicatif::{ProgressBar, ProgressStyle};

use crate::agent::configuration::Configuration;
use crate::cli::output;
use crate::ledger::Ledger;
use crate::registration::node::Node;
use crate::registration::reconcile;
use crate::registration::release;
use crate::registration::shared::Shared;
use crate::vpc::clients::Aws;
use crate::vpc::eni;
use crate::vpc::inventory;

const BAR: &str = "{bar:30} {pos}/{len} ENIs, {elapsed}  {wide_msg}";

/// Compares once, releases due addresses, and prints the differences.
///
/// # Errors
/// The errors of any ENI, and code 6 for a damaged file of the ledger; the others are done.
pub(crate) fn once() -> Result<()> {
    let aws = Aws::open();
    let ledger = Ledger::of_node();
    let inventory = inventory::discover(&aws)?;
    let node = Node {
        aws: &aws,
        ledger: &ledger,
        inventory: &inventory,
        shared: &Shared::default(),
    };
    let progress = Progress::begin(&inventory);
    let grace = Configuration::default().grace();
    let report = reconcile::run(&node, grace, &mut |eni| progress.advance(eni));
    progress.end();
    let report = report?;
    let mut kept = Vec::new();
    let released = release::release_all_due(&aws, &ledger, &mut kept);
    for why in kept {
        say!("{why}");
    }
    released?;
    output::print(format!("{report}\n").as_bytes())?;
    require_readable(&ledger)
}

/// Checks that no file of the ledger is damaged: its address or prefix has not been compared.
fn require_readable(ledger: &Ledger) -> Result<()> {
    let mut damaged = Errors::default();
    for eni in ledger.enis()? {
        for damage in eni.damage()? {
            damaged.keep::<()>(Err(damage.error));
        }
    }
    damaged.into_result()
}

/// The progress: a bar on a terminal, lines in a log.
enum Progress {
    Bar(ProgressBar),
    Lines,
}

impl Progress {
    fn begin(inventory: &Inventory) -> Self {
        if !io::stderr().is_terminal() {
            return Self::Lines;
        }
        let managed = |eni: &&Eni| eni::require_managed(eni).is_ok();
        let enis = inventory.enis.iter().filter(managed).count();
        let bar = ProgressBar::new(u64::try_from(enis).unwrap_or(u64::MAX));
        // The template is valid; the default style would do as well.
        let style = ProgressStyle::with_template(BAR);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.tick();
        Self::Bar(bar)
    }

    fn advance(&self, eni: &Eni) {
        match self {
            Self::Bar(bar) => {
                bar.set_message(eni.id.clone());
                bar.inc(1);
            }
            // Its interface is in a pod or bound to a driver for user space.
            Self::Lines if eni.interface.is_empty() => say!("{} compared", eni.id),
            Self::Lines => say!("{} ({}) compared", eni.id, eni.interface),
        }
    }

    fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
