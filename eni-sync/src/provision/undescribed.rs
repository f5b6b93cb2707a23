//! ENIs that the node has and that EC2 does not describe yet, where the records of a pass were
//! lost: another ENI must not be created in their place.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use common::error::{Error, ErrorCode, Result};
use common::kernel::netlink::{Link, Netlink};
use common::say;

use crate::deadline::Deadline;
use crate::ledger::DESCRIBE_LAG;
use crate::provision::pass::Pass;
use crate::provision::record::{self, Made};

/// The pause between two looks at EC2.
const LOOK: Duration = Duration::from_secs(2);

impl Pass<'_> {
    /// Waits until EC2 describes each ENI that the metadata or the kernel show on the node, for as
    /// long as descriptions may be older. What is not described then has left the node, and the
    /// metadata still show it.
    ///
    /// # Errors
    /// Code 11 when there is no time left, and those of the metadata, the kernel and EC2.
    pub(super) fn await_described(&mut self) -> Result<()> {
        let lag = Deadline::after(Duration::from_secs(DESCRIBE_LAG));
        let mut is_told = false;
        while let Some(mac) = self.undescribed()? {
            if lag.is_over() {
                return Ok(());
            }
            let why = format!("EC2 does not describe the ENI with the MAC address {mac} yet");
            if self.deadline.left() <= LOOK {
                let details = "no ENI is created until it does: it may be one of the missing ones";
                return Err(Error::new(ErrorCode::TRY_AGAIN, why).with_details(details));
            }
            if !is_told {
                say!("{why}; waiting for that before another one is created");
                is_told = true;
            }
            thread::sleep(LOOK);
            self.look_again()?;
            record::leave_out_deleted(&mut self.look)?;
        }
        Ok(())
    }

    /// The MAC address of an ENI that is on the node, and that neither a description nor a record
    /// shows.
    fn undescribed(&self) -> Result<Option<String>> {
        let mut macs = self.aws.imds()?.macs()?;
        macs.extend(Netlink::open()?.links()?.iter().filter_map(hardware));
        let records = self.records.all()?;
        let recorded = records.iter().filter_map(|record| record.made.as_ref());
        let recorded: BTreeSet<&str> = recorded.map(|made: &Made| made.mac.as_str()).collect();
        let is_known = |mac: &String| {
            let mut described = self.look.enis.iter();
            described.any(|eni| eni.mac == *mac) || recorded.contains(mac.as_str())
        };
        Ok(macs.into_iter().find(|mac| !is_known(mac)))
    }
}

/// The MAC address of a network card, which is that of an ENI on every instance.
fn hardware(link: &Link) -> Option<String> {
    let is_card = link.ethernet && link.kind.is_empty() && !link.bus_address.is_empty();
    is_card.then(|| link.hardware_mac().to_owned())
}
