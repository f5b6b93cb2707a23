//! The namespace of a record to which nothing leads any more, but which the kernel has not ended: a
//! socket keeps it, such as that of a TCP connection whose peer does not answer, or what no search
//! finds. No process can enter such a namespace. By its number the kernel lists its interfaces and
//! deletes them, and moves none of them.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::kernel::netlink::{ByNumber, Events, KernelAddress, Link, Netlink, Subject};
use crate::kernel::netns::{Bearer, Holders, NetNsId};
use crate::records::{Attachment, boot_id};

/// How many addresses of such a namespace are read at most.
const ADDRESSES: usize = 1 << 16;

/// Such a namespace.
#[derive(Debug)]
pub struct Kept {
    id: NetNsId,
    /// Its number in the namespace of this process.
    number: i32,
    /// Whether every other namespace that can have its number was asked for it.
    is_certain: bool,
}

impl Kept {
    /// The namespace of a record into which [`sandbox_by_number`](super::sandbox_by_number) finds no
    /// way. `None` when it has ended, and where the kernel does not tell: before Linux 5.0, and for
    /// an attachment of an earlier version.
    ///
    /// # Errors
    /// Code 5 when the boot id cannot be read, 8 when a process cannot be examined, 11 when the
    /// kernel cannot be asked now.
    pub fn of<D>(record: &Attachment<D>) -> Result<Option<Self>> {
        let id = record.netns_id;
        if record.boot_id != boot_id()? {
            return Ok(None);
        }
        let (number, is_certain) = match Holders::default().bearer_of_number(&id)? {
            Bearer::NotIt => return Ok(None),
            Bearer::Itself(number) => (number, true),
            Bearer::Unknown(number) => (number, false),
        };
        Ok(Some(Self {
            id,
            number,
            is_certain,
        }))
    }

    /// Its interfaces; none when it has just ended.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub fn links(&self, node: &mut Netlink) -> Result<Vec<Link>> {
        node.links_of(self.number)
    }

    /// The addresses of its interfaces; none when it has just ended.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer, or there are more than 65536.
    pub fn addresses(&self) -> Result<Vec<KernelAddress>> {
        // A kernel that tells of a namespace by its number reads addresses by it.
        let Some(mut by_number) = ByNumber::open()? else {
            return Ok(Vec::new());
        };
        let found = by_number.addresses(self.number, ADDRESSES)?;
        Ok(found.unwrap_or_default())
    }

    /// Whether it was the record's namespace for certain when this value was made: any other one on
    /// the node would have been found. It can end at any time, and another one get its number.
    pub fn is_certain(&self) -> bool {
        self.is_certain
    }

    /// Deletes one of its interfaces.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer.
    pub fn delete(&self, node: &mut Netlink, link: &Link) -> Result<()> {
        match node.delete_link_of(self.number, link) {
            Err(_) if self.id.is_gone() => Ok(()),
            outcome => outcome,
        }
    }

    /// Waits for its end, and returns whether it has ended in this time: its last socket can end a
    /// moment later than its last process.
    ///
    /// # Errors
    /// Code 999 when the kernel does not report changes, 11 when it cannot be asked now.
    pub fn await_end(&self, at_most: Duration) -> Result<bool> {
        let events = Events::open(Subject::Namespaces)?;
        let deadline = Instant::now() + at_most;
        while !self.id.is_gone() {
            if !events.wait(deadline)? {
                // The number may be that of another namespace by now.
                return Ok(Holders::default().number_of(&self.id)?.is_none());
            }
        }
        Ok(true)
    }
}
