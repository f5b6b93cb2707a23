//! Whether a directory was used since the machine was started. Reservations of an earlier
//! boot belong to containers that do not exist any more, and nobody else would ever
//! release them; which ones these are, `container` knows.

use std::path::Path;

use common::error::{Error, Result};
use common::files::file;
use common::kernel::netns::Holders;

use crate::container::Machine;
use crate::names::{BOOT_ID, SMALL};
use crate::reservation::{Holder, Reservation};

/// This boot, as seen from a directory.
#[derive(Debug)]
pub struct Boot {
    /// The machine since its start.
    pub machine: Machine,
    /// Whether the directory names it, and every reservation was therefore examined in it.
    pub is_known: bool,
    /// Who holds the namespaces of containers.
    holders: Holders,
}

/// What a reservation is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its container has it.
    InUse,
    /// Nobody has it any more.
    Abandoned,
    /// Nothing shows in which boot it was made: it is kept.
    Unproven,
}

impl Boot {
    /// Reads which boot this is, and whether `directory` names it.
    ///
    /// # Errors
    /// Code 5 when `/proc` cannot be read.
    pub fn of(directory: &Path) -> Result<Self> {
        let machine = Machine::this()?;
        let known = file::read_regular(&directory.join(BOOT_ID), SMALL);
        // Whatever prevents the file from being read, to examine the reservations once
        // more loses nothing.
        let is_known = known.is_ok_and(|content| content == machine.boot_id().as_bytes());
        Ok(Self {
            machine,
            is_known,
            holders: Holders::default(),
        })
    }

    /// What becomes of a reservation at the first use of the directory in this boot. Later
    /// only what nobody holds is told from the others.
    pub fn judge(&self, reservation: &Reservation) -> Verdict {
        match reservation.holder {
            Holder::Nobody => Verdict::Abandoned,
            Holder::Owner(_) if !self.is_known => match reservation.container(&self.machine) {
                Some(container) if container.has_ended(&self.machine, &self.holders) => {
                    Verdict::Abandoned
                }
                Some(_) => Verdict::InUse,
                None => Verdict::Unproven,
            },
            Holder::Owner(_) | Holder::Unknown(_) => Verdict::InUse,
        }
    }

    /// Lets `directory` name this boot.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub fn write(&self, directory: &Path) -> Result<()> {
        if self.is_known {
            return Ok(());
        }
        let path = directory.join(BOOT_ID);
        file::replace(&path, self.machine.boot_id().as_bytes())
            .map_err(|cause| Error::io(format!("failed to write {path:?}"), &cause))
    }
}
