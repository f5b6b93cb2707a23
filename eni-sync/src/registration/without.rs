//! Pods that run although their address is not registered in the VPC: the network's
//! configuration allows it, or the agent has found the pod and cannot register the address.

use std::fmt;
use std::net::IpAddr;

use common::error::{Error, Result};
use tracing::error;

use crate::ledger::{Ledger, Owner, State};
use crate::registration::desired::Wanted;
use crate::vpc::clients::Aws;
use crate::vpc::{eni, inventory};

/// An attachment with an address that is not registered in the VPC.
#[derive(Clone, Debug)]
pub(crate) struct Without {
    /// The attachment.
    pub(crate) owner: Owner,
    /// The address.
    pub(crate) address: IpAddr,
    /// Why it is not registered.
    pub(crate) why: Error,
}

impl Without {
    /// The text by which repetitions are recognised: without the details, which may differ each
    /// time.
    pub(crate) fn reason(&self) -> String {
        let Self {
            owner,
            address,
            why,
        } = self;
        format!("{owner}: {address}: {}: {}", why.code.0, why.msg)
    }

    /// Logs it, with fields to search by.
    pub(crate) fn log(&self) {
        let owner = &self.owner;
        error!(
            address = %self.address,
            pod = Some(owner.pod.as_str()).filter(|pod| !pod.is_empty()),
            network = owner.network,
            container = owner.container_id,
            interface = owner.ifname,
            code = self.why.code.0,
            "{self}"
        );
    }
}

impl fmt::Display for Without {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            owner,
            address,
            why,
        } = self;
        write!(f, "{owner} runs without {address} in the VPC: {why}")
    }
}

/// The addresses of an attachment that were not claimed, because they, or others before them,
/// can never be on their ENI.
pub(crate) fn unclaimed(aws: &Aws, wanted: &Wanted, owner: &Owner) -> Vec<Without> {
    let (mut why, mut without) = (None, Vec::new());
    for (mac, addresses) in wanted {
        let mut addresses = addresses.clone();
        match inventory::find(aws, mac) {
            Ok((_, eni)) => {
                addresses = eni::needing_entries(&eni, &addresses);
                let refusal = eni::require_all(&eni, &addresses).err();
                why = why.or(refusal.filter(|_| !addresses.is_empty()));
            }
            Err(error) => why = why.or(Some(error)),
        }
        let named = why.iter().flat_map(|why| {
            addresses.iter().map(|address| Without {
                owner: owner.clone(),
                address: *address,
                why: why.clone(),
            })
        });
        without.extend(named);
    }
    without
}

/// The attachments that run without an address which EC2 refuses.
///
/// # Errors
/// Code 5 naming a file of the ledger.
pub(crate) fn refused(ledger: &Ledger) -> Result<Vec<Without>> {
    let mut refused = Vec::new();
    for eni in ledger.enis()? {
        for entry in eni.read()? {
            if let (
                State::Claiming {
                    refusal: Some(refusal),
                    best_effort: true,
                    ..
                },
                Some(owner),
            ) = (entry.state, entry.owner)
            {
                refused.push(Without {
                    owner,
                    address: entry.address,
                    why: refusal.error(),
                });
            }
        }
    }
    Ok(refused)
}
