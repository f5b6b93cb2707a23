//! Changes, and how the kernel is asked for several of them at once.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;

use super::Netlink;
use crate::error::{Error, Result};

/// How many changes are sent together. Were all of them refused, the socket could
/// still hold the answers.
const TOGETHER: usize = 64;

/// A change to be made in a namespace.
#[derive(Clone, Debug)]
pub struct Change {
    message: RouteNetlinkMessage,
    flags: u16,
    /// How its error begins.
    failed: String,
}

impl Change {
    pub(super) fn new(message: RouteNetlinkMessage, flags: u16, failed: String) -> Self {
        Self {
            message,
            flags,
            failed,
        }
    }
}

impl Netlink {
    /// Makes these changes in their order. One that the kernel refuses does not keep
    /// it from the next ones, so they are for callers that undo all of them then.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer to the first one that it refused.
    pub fn apply(&mut self, changes: &[Change]) -> Result<()> {
        let mut together = changes.chunks(TOGETHER);
        together.try_for_each(|part| self.apply_together(part))
    }

    /// The kernel answers what it refuses in any case. So it is enough when it
    /// acknowledges the last change, which says that it has seen the others.
    fn apply_together(&mut self, changes: &[Change]) -> Result<()> {
        let mut request = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for (place, change) in changes.iter().enumerate() {
            let is_last = place + 1 == changes.len();
            let acknowledge = if is_last { NLM_F_ACK } else { 0 };
            let flags = change.flags | acknowledge;
            self.append(&mut request, change.message.clone(), flags);
        }
        let failed = |place: usize, cause: &io::Error| {
            let text = changes.get(place).map(|change| change.failed.clone());
            Error::internal(text.unwrap_or_default()).because(cause)
        };
        self.send(&request).map_err(|cause| failed(0, &cause))?;
        let mut outcome = Ok(());
        loop {
            for answer in self.receive().map_err(|cause| failed(0, &cause))? {
                let NetlinkPayload::Error(error) = answer.payload else {
                    continue;
                };
                let place = answer.header.sequence_number.wrapping_sub(first) as usize;
                if error.code.is_some() && place < changes.len() && outcome.is_ok() {
                    outcome = Err(failed(place, &error.to_io()));
                }
                if place + 1 == changes.len() {
                    return outcome;
                }
            }
        }
    }
}
