//! The attachment that an address is for, and how to find out whether it still exists.

use std::path::{Path, PathBuf};

use common::cni::args::CmdArgs;
use common::error::{Error, ErrorCode, Result};
use common::kernel::netns::{Holders, NetNsId, Presence};
use common::records::boot_id;
use common::text::printable;
use serde::{Deserialize, Serialize};

use super::{Entry, Takeover};

/// How many bytes an attachment may have in the ledger.
const LIMIT: usize = 1 << 15;

/// The attachment that an address is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Owner {
    /// The network's name.
    pub(crate) network: String,
    /// The container.
    pub(crate) container_id: String,
    /// The interface inside the container.
    pub(crate) ifname: String,
    /// `namespace/name` of the pod; empty when the runtime has not said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) pod: String,
    /// By what it is known whether the attachment still exists.
    #[serde(flatten)]
    pub(crate) life: Life,
    /// How long the address stays on the ENI when the attachment has ended.
    pub(crate) cooldown_seconds: u64,
    /// From which ENIs the network has its addresses taken. Files of versions that did not
    /// record it have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) takeover: Option<Takeover>,
}

/// The object whose end is the end of the attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub(crate) enum Life {
    /// The container's network namespace.
    Namespace {
        /// The path of the namespace.
        netns: String,
        /// Which namespace the path led to.
        netns_id: NetNsId,
        /// The boot in which the attachment was made.
        boot_id: String,
    },
    /// The reservation of host-local, for an attachment whose plugins do not report to
    /// `eni-sync`.
    Reservation {
        /// The path of the file.
        reservation: PathBuf,
    },
    /// No object: the agent itself claims the address for a pool.
    Pool {
        /// The name of the pool.
        pool: String,
    },
}

impl Life {
    /// Whether both are the same namespace, by whatever path, or the same reservation.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Namespace {
                    netns_id, boot_id, ..
                },
                Self::Namespace {
                    netns_id: id,
                    boot_id: boot,
                    ..
                },
            ) => netns_id.is_same(id) && boot_id == boot,
            (Self::Reservation { reservation }, Self::Reservation { reservation: other }) => {
                reservation == other
            }
            (Self::Pool { pool }, Self::Pool { pool: other }) => pool == other,
            _ => false,
        }
    }

    /// Whether it still exists at its path.
    ///
    /// # Errors
    /// Code 5 when the boot id cannot be read or the reservation cannot be examined, 8 when the
    /// namespace cannot be examined.
    fn goes_on(&self) -> Result<bool> {
        match self {
            Self::Namespace {
                netns,
                netns_id,
                boot_id: made_in,
            } => Ok(boot_id()? == *made_in && netns_id.is_at(netns)?),
            Self::Reservation { reservation } => reservation_presence(reservation).is_living(),
            Self::Pool { .. } => Ok(true),
        }
    }

    /// Whether it still exists, at any path.
    fn presence(&self, holders: &Holders) -> Presence {
        match self {
            Self::Namespace {
                netns,
                netns_id,
                boot_id: made_in,
            } => match boot_id() {
                Ok(boot) if boot == *made_in => netns_id.presence(netns, holders),
                Ok(_) => Presence::Ended,
                Err(error) => Presence::Unknown(error),
            },
            Self::Reservation { reservation } => reservation_presence(reservation),
            Self::Pool { .. } => Presence::Living,
        }
    }
}

/// Whether host-local has a reservation. It has ended if its file or the directory of its
/// network is missing; if the whole store is missing, that is unknown.
pub(super) fn reservation_presence(path: &Path) -> Presence {
    let unknown = |error: Error| Presence::Unknown(error);
    for place in path.ancestors().take(3) {
        match place.try_exists() {
            Ok(true) if place == path => return Presence::Living,
            Ok(true) => return Presence::Ended,
            Ok(false) => {}
            Err(cause) => {
                let msg = format!("failed to look for {path:?}");
                return unknown(Error::io(msg, &cause));
            }
        }
    }
    let msg = format!("the store of {path:?} is not visible");
    unknown(Error::new(ErrorCode::IO, msg))
}

impl Owner {
    /// Whether this is the owner of an attachment, whatever namespace it is in.
    pub(crate) fn is_attachment(&self, network: &str, container_id: &str, ifname: &str) -> bool {
        self.network == network && self.is_interface(container_id, ifname)
    }

    /// Whether this is the owner of this interface of a container, whatever its network is called
    /// by now: a container has one interface with a name.
    pub(crate) fn is_interface(&self, container_id: &str, ifname: &str) -> bool {
        (self.container_id.as_str(), self.ifname.as_str()) == (container_id, ifname)
    }

    /// Whether this is the owner of the attachment that a command is about.
    pub(crate) fn is_of(&self, args: &CmdArgs) -> bool {
        let (container, ifname) = (args.container_id.as_str(), args.ifname.as_str());
        self.is_attachment(&args.conf.network, container, ifname)
    }

    /// Whether both are the same attachment in the same namespace.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.is_attachment(&other.network, &other.container_id, &other.ifname)
            && self.life.is_same(&other.life)
    }

    /// Checks that the ledger can hold what it has to hold of the attachment, before anything is
    /// done for it.
    ///
    /// # Errors
    /// Code 7 naming the limit.
    pub(crate) fn require_short(&self) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|cause| {
            let msg = "cannot write the attachment into the ledger";
            Error::internal(msg).with_details(cause.to_string())
        })?;
        if text.len() <= LIMIT {
            return Ok(());
        }
        let msg = format!(
            "cannot write the attachment into the ledger with {} bytes",
            text.len()
        );
        let details = format!(
            "its network, container, interface and pod have {LIMIT} at most: use shorter names"
        );
        Err(Error::config(msg).with_details(details))
    }

    /// Whether the attachment still exists at its path.
    ///
    /// # Errors
    /// Code 5 or 8 when that cannot be determined.
    pub(crate) fn is_alive(&self) -> Result<bool> {
        self.life.goes_on()
    }

    /// Whether the attachment still exists, at any path.
    pub(crate) fn presence(&self, holders: &Holders) -> Presence {
        self.life.presence(holders)
    }

    /// Whether its namespace may live although its path does not lead there: something keeps
    /// it, or may keep it, as far as this process can see.
    pub(crate) fn may_linger(&self, holders: &Holders) -> bool {
        self.netns_id().is_some() && matches!(self.presence(holders), Presence::Unknown(_))
    }

    /// Whether its namespace has ended for certain, whatever this process can see: the kernel says
    /// so, or the machine has booted since.
    ///
    /// # Errors
    /// Code 5 when the boot id cannot be read.
    pub(crate) fn is_gone(&self) -> Result<bool> {
        match &self.life {
            Life::Namespace {
                boot_id: made_in,
                netns_id,
                ..
            } => Ok(boot_id()? != *made_in || netns_id.is_gone()),
            Life::Reservation { .. } | Life::Pool { .. } => Ok(false),
        }
    }

    /// The path of the container's network namespace, where it is known.
    pub(crate) fn netns(&self) -> Option<&str> {
        match &self.life {
            Life::Namespace { netns, .. } => Some(netns),
            Life::Reservation { .. } | Life::Pool { .. } => None,
        }
    }

    /// The identity of that namespace, where it is known.
    pub(crate) fn netns_id(&self) -> Option<&NetNsId> {
        match &self.life {
            Life::Namespace { netns_id, .. } => Some(netns_id),
            Life::Reservation { .. } | Life::Pool { .. } => None,
        }
    }
}

impl Entry {
    /// From which ENIs the address may be taken when its attachment has lost it. Not from a
    /// running node, which an address that floats has gone to; and where the ledger does not know
    /// what the network permits, from none.
    pub(crate) fn takeover_when_lost(&self) -> Takeover {
        let permitted = self.owner.as_ref().and_then(|owner| owner.takeover);
        match permitted {
            Some(Takeover::DeadOwner | Takeover::Always) => Takeover::DeadOwner,
            Some(Takeover::Never) | None => Takeover::Never,
        }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.pod.is_empty() {
            write!(f, "pod {}, ", printable(&self.pod))?;
        }
        write!(
            f,
            "container {}, interface {}, network {}",
            printable(&self.container_id),
            printable(&self.ifname),
            printable(&self.network)
        )
    }
}
