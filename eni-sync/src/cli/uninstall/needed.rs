//! The reasons against cleaning up a node: attached pods, and ENIs that are being created or
//! deleted. A file that cannot be read may be about either, so its error is one too.

use common::error::{Error, Result};
use common::kernel::netns::Holders;
use common::text::printable;

use crate::ledger::Ledger;
use crate::provision;
use crate::registration::attached;

/// The pods and ENIs that still need the state of this suite.
#[derive(Debug)]
pub(super) struct Needed {
    attached: Vec<String>,
    begun: Vec<String>,
}

impl Needed {
    /// Collects them from the records of the plugins, the ledger, and the records of ENIs.
    ///
    /// # Errors
    /// Code 5 naming a directory that cannot be listed.
    pub(super) fn look() -> Result<Self> {
        Ok(Self {
            attached: sorted(pods()?),
            begun: sorted(provision::begun()?),
        })
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.attached.is_empty() && self.begun.is_empty()
    }

    /// Refuses if there are any.
    ///
    /// # Errors
    /// Code 7 naming them.
    pub(super) fn refuse(&self) -> Result<()> {
        let (msg, listed) = match self {
            Self { attached, .. } if !attached.is_empty() => (
                format!("{} are attached: end their pods before", attached.len()),
                attached,
            ),
            Self { begun, .. } if !begun.is_empty() => (
                format!(
                    "{} ENIs are being created or deleted: `eni-sync attach` completes that",
                    begun.len()
                ),
                begun,
            ),
            _ => return Ok(()),
        };
        let listed = listed.join("; ");
        let details = format!("{listed}; --force removes the programs all the same");
        Err(Error::config(msg).with_details(details))
    }
}

/// The attachments of pods that exist or may exist.
fn pods() -> Result<Vec<String>> {
    let mut pods = attached::of_ipvlan(None)?;
    pods.extend(attached::of_host_device(None)?);
    let holders = Holders::default();
    for eni in Ledger::of_node().enis()? {
        // The addresses of a pool belong to the agent, which does not run.
        let entries = eni.read()?.into_iter().filter(|entry| !entry.is_for_pool());
        let used = entries.filter(|entry| entry.is_in_use());
        let living = used.filter(|entry| entry.may_have_living_owner(&holders));
        pods.extend(living.filter_map(|entry| Some(entry.owner?.to_string())));
    }
    Ok(pods)
}

fn sorted(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let names = names.into_iter().map(|name| printable(&name).into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    names
}
