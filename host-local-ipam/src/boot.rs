//! Whether a directory was used since the machine was started. Reservations of an earlier
//! boot belong to containers that do not exist any more, and no DEL would release them.
//! Module `container` recognises them.

use std::path::Path;

use common::error::{Error, Result};
use common::files::file;
use common::kernel::netns::Holders;

use crate::container::Machine;
use crate::names::{BOOT_ID, SMALL};
use crate::reservation::{Holder, Reservation};

/// The current boot, and whether a directory was used in it.
#[derive(Debug)]
pub struct Boot {
    /// The machine and its boot.
    pub machine: Machine,
    /// Whether the directory has its id, which means that every reservation was examined
    /// in this boot.
    pub is_known: bool,
    /// What keeps the namespaces of containers alive.
    holders: Holders,
}

/// Whether a reservation is still needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classification {
    /// Its container uses it.
    InUse,
    /// No container uses it any more.
    Abandoned,
    /// It is unknown in which boot it was made, so it is kept.
    Unproven,
    /// What tells in which boot it was made cannot be read now. It is kept, and must be
    /// examined again.
    Unexamined,
}

impl Boot {
    /// Reads the id of the current boot, and whether `directory` has it.
    ///
    /// # Errors
    /// Code 5 when `/proc` cannot be read.
    pub fn of(directory: &Path) -> Result<Self> {
        let machine = Machine::this()?;
        let known = file::read_regular(&directory.join(BOOT_ID), SMALL);
        // If the file cannot be read for any reason, the reservations are only examined
        // once more.
        let is_known = known.is_ok_and(|content| content == machine.boot_id().as_bytes());
        Ok(Self {
            machine,
            is_known,
            holders: Holders::default(),
        })
    }

    /// Classifies a reservation. At the first use of the directory in this boot its
    /// container is examined. Later, only reservations without a holder are distinguished
    /// from the others.
    pub fn classify(&self, reservation: &Reservation) -> Classification {
        match reservation.holder {
            Holder::Nobody => Classification::Abandoned,
            Holder::Owner(_) if !self.is_known => match reservation.container(&self.machine) {
                Ok(Some(container)) if container.has_ended(&self.machine, &self.holders) => {
                    Classification::Abandoned
                }
                Ok(Some(_)) => Classification::InUse,
                Ok(None) => Classification::Unproven,
                Err(_) => Classification::Unexamined,
            },
            Holder::Unreadable(_) if !self.is_known => Classification::Unexamined,
            Holder::Owner(_) | Holder::Unknown(_) | Holder::Unreadable(_) => Classification::InUse,
        }
    }

    /// Writes the id of this boot to `directory`.
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
