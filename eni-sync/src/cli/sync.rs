//! `eni-sync sync --once`: one comparison of the ledger with EC2, watched by somebody.

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

/// Compares once, releases what is due, and prints what was different.
///
/// # Errors
/// What went wrong with any ENI, and code 6 for a damaged file of the ledger; the others are
/// done.
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

/// Fails when files of the ledger are damaged: what they are about has not been compared.
fn require_readable(ledger: &Ledger) -> Result<()> {
    let mut damaged = Errors::default();
    for eni in ledger.enis()? {
        for damage in eni.damage()? {
            damaged.keep::<()>(Err(damage.error));
        }
    }
    damaged.into_result()
}

/// How far the comparison is: a bar for people, lines for a log.
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
        // The default style is as good, if the template were wrong.
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
            // It is in a pod, or a program in user space has it.
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
