//! What the ledger says of one address, and of the attachment that it is for.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use common::args::CmdArgs;
use common::attachment::boot_id;
use common::error::{Error, ErrorCode, Result};
use common::netns::{Holders, NetNsId, Presence};
use common::text::printable;
use serde::{Deserialize, Serialize};

use crate::config::Takeover;

/// Seconds since 1970.
pub(crate) type Timestamp = u64;

/// One address of an ENI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    /// The address.
    pub(crate) address: IpAddr,
    /// What is done with it.
    #[serde(flatten)]
    pub(crate) state: State,
    /// The attachment that it is or was for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Owner>,
    /// Since when it is in this state.
    pub(crate) since: Timestamp,
}

/// What is done with an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "state",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub(crate) enum State {
    /// An attachment needs it; it may or may not be on the ENI yet.
    Claiming {
        /// From whom it may be taken.
        takeover: Takeover,
        /// Whether its attachment goes on without it, so that it is tried again.
        best_effort: bool,
        /// Why it could not be had, for the process that waits for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refusal: Option<Refusal>,
    },
    /// It is on the ENI for a living attachment.
    Held,
    /// It is or may be on the ENI, and nobody needs it any more.
    Releasing {
        /// When it may be removed at the earliest.
        after: Timestamp,
        /// Whether AWS may have been asked to remove it already.
        asked: bool,
    },
    /// It is on the ENI for the next attachment that host-local gives it to.
    Pooled,
    /// It was found on the ENI; nobody knows for whom. It is never removed by itself.
    Adopted,
}

impl State {
    /// The name of the state, as the ledger writes it.
    pub(crate) fn name(&self) -> String {
        let written = serde_json::to_value(self).unwrap_or_default();
        let name = written.get("state").and_then(|name| name.as_str());
        name.unwrap_or_default().to_owned()
    }
}

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
    /// What shows that the attachment still exists.
    #[serde(flatten)]
    pub(crate) life: Life,
    /// How long the address stays on the ENI when the attachment has ended.
    pub(crate) cooldown_seconds: u64,
}

/// What an attachment ends with.
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
    /// The reservation of host-local, of an attachment that nobody tells us of.
    Reservation {
        /// The path of the file.
        reservation: PathBuf,
    },
    /// Nothing: it is the agent itself that wants the address.
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

    /// Whether it exists where it was.
    ///
    /// # Errors
    /// Code 5 when the boot id cannot be read, or the reservation not be looked for, 8
    /// when the namespace cannot be looked at.
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

    /// Whether it exists, wherever it is.
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

/// Whether host-local has a reservation. It has ended where its file is gone, or the
/// directory of its network, and not where nothing of the store is visible.
fn reservation_presence(path: &Path) -> Presence {
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

/// Why an address could not be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// The code of the error.
    pub(crate) code: u32,
    /// Its message.
    pub(crate) msg: String,
    /// Its details.
    pub(crate) details: String,
}

impl Owner {
    /// Whether this is the owner of an attachment, whatever namespace it is in.
    pub(crate) fn is_attachment(&self, network: &str, container_id: &str, ifname: &str) -> bool {
        (
            self.network.as_str(),
            self.container_id.as_str(),
            self.ifname.as_str(),
        ) == (network, container_id, ifname)
    }

    /// Whether both are the same attachment in the same namespace.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.is_attachment(&other.network, &other.container_id, &other.ifname)
            && self.life.is_same(&other.life)
    }

    /// Whether the attachment exists where it was.
    ///
    /// # Errors
    /// Code 5 or 8 when that cannot be told.
    pub(crate) fn is_alive(&self) -> Result<bool> {
        self.life.goes_on()
    }

    /// Whether the attachment exists, wherever it is.
    pub(crate) fn presence(&self, holders: &Holders) -> Presence {
        self.life.presence(holders)
    }

    /// The path of the container's network namespace, where it is known.
    pub(crate) fn netns(&self) -> Option<&str> {
        match &self.life {
            Life::Namespace { netns, .. } => Some(netns),
            Life::Reservation { .. } | Life::Pool { .. } => None,
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

impl Refusal {
    /// What to tell the process that waits.
    pub(crate) fn of(error: &Error) -> Self {
        Self {
            code: error.code.0,
            msg: error.msg.clone(),
            details: error.details.clone(),
        }
    }

    /// The error as it was.
    pub(crate) fn error(&self) -> Error {
        Error::new(ErrorCode(self.code), self.msg.as_str()).with_details(self.details.as_str())
    }
}

impl Entry {
    /// An entry that is in its state from now on.
    pub(crate) fn new(address: IpAddr, state: State, owner: Option<Owner>) -> Self {
        Self {
            address,
            state,
            owner,
            since: now(),
        }
    }

    /// The same address for the same owner, in another state from now on.
    #[must_use]
    pub(crate) fn into_state(self, state: State) -> Self {
        Self::new(self.address, state, self.owner)
    }

    /// The same address when its attachment has ended: it stays on the ENI for the
    /// time that the attachment's configuration said.
    #[must_use]
    pub(crate) fn into_cooldown(self) -> Self {
        let cooldown = self
            .owner
            .as_ref()
            .map_or(0, |owner| owner.cooldown_seconds);
        self.into_state(State::Releasing {
            after: now().saturating_add(cooldown),
            asked: false,
        })
    }

    /// Whether the entry is of this attachment.
    pub(crate) fn is_of(&self, args: &CmdArgs) -> bool {
        self.owner.as_ref().is_some_and(|owner| {
            owner.is_attachment(
                &args.conf.network,
                args.container_id.as_str(),
                args.ifname.as_str(),
            )
        })
    }

    /// Whether it is of `owner`'s attachment in the same namespace.
    pub(crate) fn is_owned_by(&self, owner: &Owner) -> bool {
        self.owner.as_ref().is_some_and(|own| own.is_same(owner))
    }

    /// Whether the agent itself wants the address, for a pool.
    pub(crate) fn is_for_pool(&self) -> bool {
        let owner = self.owner.as_ref();
        owner.is_some_and(|owner| matches!(owner.life, Life::Pool { .. }))
    }

    /// Whether host-local may have a reservation of the address, where that decides.
    pub(crate) fn is_reserved(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| match &owner.life {
            Life::Reservation { reservation } => !reservation_presence(reservation).has_ended(),
            Life::Namespace { .. } | Life::Pool { .. } => false,
        })
    }

    /// Whether an attachment has the address or is about to.
    pub(crate) fn is_in_use(&self) -> bool {
        matches!(self.state, State::Held | State::Claiming { .. })
    }

    /// Whether the address is, or is being made, that of `owner`'s attachment, whoever
    /// has told us of it.
    pub(crate) fn is_for(&self, owner: &Owner) -> bool {
        let own = self.owner.as_ref();
        self.is_in_use()
            && own.is_some_and(|own| {
                (&own.container_id, &own.ifname) == (&owner.container_id, &owner.ifname)
            })
    }

    /// Whether its owner may still exist, for all that can be seen from here: what cannot
    /// be told has not ended.
    pub(crate) fn may_have_living_owner(&self, holders: &Holders) -> bool {
        let owner = self.owner.as_ref();
        owner.is_some_and(|owner| !owner.presence(holders).has_ended())
    }
}

/// The time now, in seconds since 1970.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
