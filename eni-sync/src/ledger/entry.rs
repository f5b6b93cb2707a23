//! What the ledger says of one address.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use common::kernel::netns::Holders;
use serde::{Deserialize, Serialize};

use super::Takeover;
use super::life_cycle::{Event, Next, next};
use super::owner::{Life, Owner, reservation_presence};
use super::refusal::Refusal;

/// Seconds since 1970.
pub(crate) type Timestamp = u64;

/// How long, in seconds, a description of EC2 may be older than what was asked of it.
/// Source: Amazon EC2 Developer Guide, "Eventual consistency": the time to wait begins
/// with a couple of seconds.
pub(crate) const DESCRIBE_LAG: u64 = 60;
/// How long, in seconds, it is believed without a call that EC2 still has on an ENI
/// what it had there: somebody else may have removed it.
const BELIEVED: u64 = 900;
/// A confirmation is written again when it is older than this, in seconds: a comparison
/// should not write every file of the ledger that the one before has written.
const FRESH: u64 = 30;

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
    /// When EC2 said last that it is on the ENI; 0 when it never has.
    #[serde(default, skip_serializing_if = "is_never")]
    pub(crate) confirmed: Timestamp,
    /// When EC2 was asked last to remove it from the ENI; 0 when it never was.
    #[serde(default, skip_serializing_if = "is_never")]
    removal: Timestamp,
    /// Since when descriptions do not show it; 0 when the last one did.
    #[serde(default, skip_serializing_if = "is_never")]
    missing: Timestamp,
    /// Whether EC2 has chosen it for an attachment of a network without ranges: it is in no
    /// range that host-local hands out, so the next such attachment may get it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) chosen: bool,
}

fn is_never(time: &Timestamp) -> bool {
    *time == 0
}

/// What one more description means that does not show an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    /// The description may be older than what the ledger says.
    TooEarly,
    /// It is the first one, or too close to the first: this is to be written down.
    Noted(Box<Entry>),
    /// It is the second one, some time after the first.
    Proven,
}

/// What is done with an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "state",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub(crate) enum State {
    /// An attachment or a pool wants it, and EC2 has not confirmed that it is on the ENI.
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
    /// It was on the ENI, and nobody needs it any more.
    Releasing {
        /// When it may be removed at the earliest.
        after: Timestamp,
        /// Whether EC2 may have removed it already; if not, it is on the ENI still.
        asked: bool,
    },
    /// It was wanted and is not any more, and EC2 has never confirmed that it is on the
    /// ENI: it is looked for there before anything is done about it.
    Withdrawn {
        /// When it may be removed at the earliest, should it be on the ENI.
        after: Timestamp,
    },
    /// EC2 has removed it. Kept for as long as a description may still show it.
    Removed,
    /// It is on the ENI for the next attachment that host-local gives it to.
    Pooled,
    /// It was found on the ENI; nobody knows for whom. It is never removed by itself.
    Adopted,
}

impl State {
    /// The name of the state, as the ledger writes it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Claiming { .. } => "claiming",
            Self::Held => "held",
            Self::Releasing { .. } => "releasing",
            Self::Withdrawn { .. } => "withdrawn",
            Self::Removed => "removed",
            Self::Pooled => "pooled",
            Self::Adopted => "adopted",
        }
    }
}

impl Entry {
    /// What the ledger has of an address after `event`, where it had nothing.
    pub(crate) fn begin(address: IpAddr, event: &Event, owner: Option<Owner>) -> Option<Self> {
        match next(None, event) {
            Next::Become(state) => Some(Self {
                address,
                state,
                owner,
                since: now(),
                confirmed: if event.is_confirmation() { now() } else { 0 },
                removal: 0,
                missing: 0,
                chosen: false,
            }),
            Next::Stay | Next::Forget => None,
        }
    }

    /// The entry after `event`; nothing when the address is to be forgotten.
    #[must_use]
    pub(crate) fn after(self, event: &Event) -> Option<Self> {
        let now = now();
        let confirmed = match event.is_confirmation() {
            true => now,
            false => self.confirmed,
        };
        let removal = match event {
            Event::Unassigning | Event::Unassigned => now,
            _ => self.removal,
        };
        let missing = match event.is_confirmation() {
            true => 0,
            false => self.missing,
        };
        let (state, since) = match next(Some(&self.state), event) {
            Next::Forget => return None,
            Next::Become(state) => (state, now),
            Next::Stay => (self.state, self.since),
        };
        Some(Self {
            address: self.address,
            owner: self.owner.filter(|_| !matches!(state, State::Pooled)),
            state,
            since,
            confirmed,
            removal,
            missing,
            // host-local hands out what is in a pool.
            chosen: self.chosen && *event != Event::Pooled,
        })
    }

    /// The entry of an address that is on the ENI for nobody: EC2 has chosen it, and whoever
    /// it was for is gone, or not known. `known` is what the ledger has of it, and `after` is
    /// when it may leave the ENI.
    #[must_use]
    pub(crate) fn spare(address: IpAddr, known: Option<Self>, after: Timestamp) -> Option<Self> {
        let seen = match known {
            Some(entry) => entry.after(&Event::Seen),
            None => Self::begin(address, &Event::Seen, None),
        };
        // No pod has had it, so nobody waits for an answer from it.
        let entry = seen?.after(&Event::Ended { after })?;
        Some(Self {
            owner: None,
            ..entry.chosen()
        })
    }

    /// The same of an address that EC2 has chosen.
    #[must_use]
    pub(crate) fn chosen(self) -> Self {
        Self {
            chosen: true,
            ..self
        }
    }

    /// The entry of an address that `owner` claims by its name; `known` is what the ledger
    /// has of it.
    #[must_use]
    pub(crate) fn claimed(
        address: IpAddr,
        known: Option<Self>,
        event: &Event,
        owner: Owner,
    ) -> Option<Self> {
        let entry = match known {
            Some(entry) => entry.after(event),
            None => Self::begin(address, event, None),
        };
        entry.map(|entry| Self {
            chosen: false,
            ..entry.owned_by(owner)
        })
    }

    /// The same for another owner.
    #[must_use]
    pub(crate) fn owned_by(self, owner: Owner) -> Self {
        let owner = Some(owner);
        Self { owner, ..self }
    }

    /// The same address when its attachment has ended: what is on the ENI stays there for
    /// the time that the attachment's configuration said.
    #[must_use]
    pub(crate) fn ended(self) -> Option<Self> {
        let owner = self.owner.as_ref();
        let cooldown = owner.map_or(0, |owner| owner.cooldown_seconds);
        let after = now().saturating_add(cooldown);
        self.after(&Event::Ended { after })
    }

    /// The entry as a file says it. A file of a version that did not write down whether
    /// EC2 had confirmed an address says nothing about that.
    #[must_use]
    pub(super) fn without_assumptions(self) -> Self {
        let after = match self.state {
            State::Releasing { after, .. } => after,
            State::Pooled => 0,
            _ => return self,
        };
        match self.confirmed {
            0 => Self {
                state: State::Withdrawn { after },
                ..self
            },
            _ => self,
        }
    }

    /// The entry with all times so many seconds later: the clock was set by as much.
    #[must_use]
    pub(super) fn moved_by(self, seconds: i64) -> Self {
        // 0 is no time.
        let moved = |time: Timestamp| match time {
            0 => 0,
            time => time.saturating_add_signed(seconds).max(1),
        };
        let state = match self.state {
            State::Releasing { after, asked } => State::Releasing {
                after: moved(after),
                asked,
            },
            State::Withdrawn { after } => State::Withdrawn {
                after: moved(after),
            },
            state => state,
        };
        Self {
            state,
            since: moved(self.since),
            confirmed: moved(self.confirmed),
            removal: moved(self.removal),
            missing: moved(self.missing),
            ..self
        }
    }

    /// Whether EC2 has the address on the ENI, for all that it has said.
    pub(crate) fn is_on_eni(&self) -> bool {
        match self.state {
            State::Held | State::Releasing { .. } | State::Pooled | State::Adopted => true,
            State::Claiming { .. } | State::Withdrawn { .. } | State::Removed => false,
        }
    }

    /// Whether EC2 has said lately that the address is on the ENI, and no description
    /// after that has failed to show it.
    pub(crate) fn is_believed(&self, now: Timestamp) -> bool {
        self.missing == 0 && is_younger(self.confirmed, BELIEVED, now)
    }

    /// Whether the last description has not shown the address.
    pub(crate) fn is_missing(&self) -> bool {
        self.missing != 0
    }

    /// Whether descriptions may be older than what the ledger says of the address.
    pub(crate) fn is_too_young_to_compare(&self, now: Timestamp) -> bool {
        is_younger(self.since, DESCRIBE_LAG, now) || self.was_removed_lately(now)
    }

    /// Whether a description may still show the address though EC2 has removed it.
    pub(crate) fn was_removed_lately(&self, now: Timestamp) -> bool {
        is_younger(self.removal, DESCRIBE_LAG, now)
    }

    /// Whether an inventory that is still believed may have it though EC2 has removed it.
    pub(crate) fn is_removal_remembered(&self, now: Timestamp) -> bool {
        is_younger(self.removal, BELIEVED, now)
    }

    /// Whether a description may show the address though EC2 is removing it, or has: it was
    /// asked to lately, and has not confirmed since that the address is on the ENI.
    pub(crate) fn may_be_leaving(&self, now: Timestamp) -> bool {
        let is_asked = matches!(self.state, State::Releasing { asked: true, .. });
        (is_asked || !self.is_on_eni()) && self.was_removed_lately(now)
    }

    /// Whether a description shows it that is later than the first one by more than
    /// descriptions may be late.
    pub(crate) fn was_seen_twice(&self) -> bool {
        self.missing == 0 && self.confirmed >= self.since.saturating_add(DESCRIBE_LAG)
    }

    /// Whether a confirmation should be written down.
    pub(crate) fn needs_confirmation(&self, now: Timestamp) -> bool {
        self.missing != 0 || !is_younger(self.confirmed, FRESH, now)
    }

    /// What it means that a description does not show the address.
    pub(crate) fn absence(&self, now: Timestamp) -> Absence {
        if self.is_too_young_to_compare(now) || is_younger(self.confirmed, DESCRIBE_LAG, now) {
            return Absence::TooEarly;
        }
        if self.missing != 0 && !is_younger(self.missing, DESCRIBE_LAG, now) {
            return Absence::Proven;
        }
        let missing = if self.missing == 0 { now } else { self.missing };
        Absence::Noted(Box::new(Self {
            missing,
            ..self.clone()
        }))
    }

    /// When an address that nobody needs should be looked for on the ENI, to remove it;
    /// nothing while somebody needs it. A clock that was set back keeps no address.
    pub(crate) fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let settled = |time: Timestamp| time.saturating_add(DESCRIBE_LAG);
        let due = match self.state {
            State::Releasing { after, .. } => after,
            State::Withdrawn { after } if self.missing != 0 => after.max(settled(self.missing)),
            State::Withdrawn { after } => after.max(settled(self.since.max(self.removal))),
            _ => return None,
        };
        let is_of_the_future = self.since.max(self.missing) > now;
        Some(if is_of_the_future { 0 } else { due })
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

    /// Whether the agent has found the address reserved for `owner`'s attachment, which tells
    /// of itself now.
    pub(crate) fn is_found_for(&self, owner: &Owner) -> bool {
        self.is_found_by_watching() && self.is_of_attachment(owner)
    }

    /// Whether `owner`'s attachment has told of itself. It tells its end too, though the
    /// address is reserved for a moment longer.
    pub(crate) fn is_told_of(&self, owner: &Owner) -> bool {
        let own = self.owner.as_ref();
        let is_plugins = own.is_some_and(|own| matches!(own.life, Life::Namespace { .. }));
        is_plugins && self.is_of_attachment(owner)
    }

    fn is_of_attachment(&self, owner: &Owner) -> bool {
        let own = self.owner.as_ref();
        own.is_some_and(|own| own.is_attachment(&owner.network, &owner.container_id, &owner.ifname))
    }

    /// Whether a reservation of host-local is all that tells of its attachment: no process
    /// waits for it.
    pub(crate) fn is_found_by_watching(&self) -> bool {
        let owner = self.owner.as_ref();
        owner.is_some_and(|owner| matches!(owner.life, Life::Reservation { .. }))
    }

    /// Whether host-local may have a reservation of the address, where that decides.
    pub(crate) fn is_reserved(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| match &owner.life {
            Life::Reservation { reservation } => !reservation_presence(reservation).has_ended(),
            Life::Namespace { .. } | Life::Pool { .. } => false,
        })
    }

    /// Whether nobody needs the address any more, wherever it is.
    pub(crate) fn is_leaving(&self) -> bool {
        match self.state {
            State::Releasing { .. } | State::Withdrawn { .. } | State::Removed => true,
            State::Held | State::Claiming { .. } | State::Pooled | State::Adopted => false,
        }
    }

    /// Whether it was wanted and could not be had.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(
            self.state,
            State::Claiming {
                refusal: Some(_),
                ..
            }
        )
    }

    /// Whether nobody is known to have the address, and EC2 has not chosen it for anybody who
    /// has not got it: whoever has it may be somebody who did not have to claim it.
    pub(crate) fn is_unclaimed(&self) -> bool {
        self.owner.is_none() && !self.chosen
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

/// Whether `time` is less than `seconds` ago. A time of the future says nothing.
fn is_younger(time: Timestamp, seconds: u64, now: Timestamp) -> bool {
    now.checked_sub(time).is_some_and(|age| age < seconds)
}

/// The time now, in seconds since 1970.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
