//! The ledger's entry of one address.

use std::net::IpAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use common::kernel::netns::Holders;
use serde::{Deserialize, Serialize};

use super::attachment::Attachment;
use super::life_cycle::{Event, Next, next};
use super::owner::{Life, Owner, reservation_presence};
use super::{State, Takeover};

/// Seconds since 1970.
pub(crate) type Timestamp = u64;

/// How long, in seconds, EC2's descriptions may lag behind its changes. Source: Amazon EC2
/// Developer Guide, "Eventual consistency": the time to wait begins with a couple of seconds.
pub(crate) const DESCRIBE_LAG: u64 = 60;
/// How long, in seconds, a confirmation counts that an address is on an ENI. After that EC2 is
/// asked again, because another user may have removed the address.
const BELIEVED: u64 = 900;
/// A confirmation is written again when it is older than this, in seconds, so that a comparison
/// does not rewrite every file that the one before has written.
const FRESH: u64 = 30;

/// The entry of one address of an ENI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    /// The address.
    pub(crate) address: IpAddr,
    /// Its state.
    #[serde(flatten)]
    pub(crate) state: State,
    /// The attachment that it is or was for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Owner>,
    /// When it came into this state.
    pub(crate) since: Timestamp,
    /// When EC2 last confirmed that it is on the ENI; 0 for never.
    #[serde(default, skip_serializing_if = "is_never")]
    pub(crate) confirmed: Timestamp,
    /// When EC2 was last asked to remove it from the ENI; 0 for never.
    #[serde(default, skip_serializing_if = "is_never")]
    pub(super) removal: Timestamp,
    /// When the first description came that did not show it; 0 if the last one did.
    #[serde(default, skip_serializing_if = "is_never")]
    pub(super) missing: Timestamp,
    /// Whether EC2 has chosen it for an attachment of a network without ranges: it is in no
    /// range that host-local hands out, so the next such attachment may get it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) chosen: bool,
    /// Whether a network has claimed it as one that floats: another running node may take it at
    /// any moment, so what EC2 has confirmed earlier proves nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) floats: bool,
    /// Whether its attachment was ended while its namespace lived, or may have lived, without
    /// its path. Who does not see the processes of the node cannot find out when it ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) lingers: bool,
    /// Whether it was on the ENI, unknown to the ledger, before it was claimed, and somebody else
    /// has it: the end of the claim leaves it there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) found: bool,
    /// The attachment of the ENI under which EC2 last confirmed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) attachment: Option<Attachment>,
    /// When the first description showed it under that attachment, while one more is needed; 0
    /// for proven.
    #[serde(default, skip_serializing_if = "is_never")]
    pub(super) returned: Timestamp,
    /// Whether what EC2 has confirmed is of an earlier attachment, as far as the reader knows.
    #[serde(skip)]
    pub(super) is_earlier: bool,
}

fn is_never(time: &Timestamp) -> bool {
    *time == 0
}

/// What it means that another description does not show an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    /// The description may be older than what the ledger says.
    TooEarly,
    /// It is the first such description, or too soon after the first: the entry is to be
    /// written.
    Noted(Box<Entry>),
    /// It is the second such description, long enough after the first: the address is not on
    /// the ENI.
    Proven,
}

impl Entry {
    /// The first entry of an address, after `event`. `None` when the event starts no entry.
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
                floats: lets_float(event),
                lingers: false,
                found: false,
                attachment: None,
                returned: 0,
                is_earlier: true,
            }),
            Next::Stay | Next::Forget => None,
        }
    }

    /// The entry after `event`; `None` when it is to be removed.
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
        let is_claimed = matches!(state, State::Claiming { .. });
        Some(Self {
            address: self.address,
            found: self.found && is_claimed,
            owner: self.owner.filter(|_| !matches!(state, State::Pooled)),
            state,
            since,
            confirmed,
            removal,
            missing,
            // host-local hands out what is in a pool.
            chosen: self.chosen && *event != Event::Pooled,
            floats: self.floats || lets_float(event),
            lingers: self.lingers,
            attachment: self.attachment,
            returned: self.returned,
            is_earlier: self.is_earlier,
        })
    }

    /// The entry of an address that EC2 has chosen and that is for no attachment: the
    /// attachment has ended, or is not known. `known` is the entry in the ledger, and `after`
    /// is when the address may leave the ENI.
    #[must_use]
    pub(crate) fn spare(address: IpAddr, known: Option<Self>, after: Timestamp) -> Option<Self> {
        let seen = match known {
            Some(entry) => entry.after(&Event::Seen),
            None => Self::begin(address, &Event::Seen, None),
        };
        // No pod has used the address, so no answers to it are expected.
        let entry = seen?.after(&Event::Ended { after })?;
        Some(Self {
            owner: None,
            ..entry.chosen()
        })
    }

    /// The entry, marked as an address that EC2 has chosen.
    #[must_use]
    pub(crate) fn chosen(self) -> Self {
        Self {
            chosen: true,
            ..self
        }
    }

    /// The entry of this address when `owner` claims it; `known` is the entry in the ledger.
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
            lingers: false,
            found: false,
            ..entry.owned_by(owner)
        })
    }

    /// The entry of a claimed address that was on the ENI before, and that somebody else has.
    #[must_use]
    pub(crate) fn found(self) -> Self {
        Self {
            found: true,
            ..self
        }
    }

    /// The entry with another owner.
    #[must_use]
    pub(crate) fn owned_by(self, owner: Owner) -> Self {
        let owner = Some(owner);
        Self { owner, ..self }
    }

    /// The entry after the end of its attachment: an address on the ENI stays there for the
    /// cool-down that the attachment's configuration has.
    #[must_use]
    pub(crate) fn ended(self) -> Option<Self> {
        if self.found {
            return Self::begin(self.address, &Event::Seen, None);
        }
        let owner = self.owner.as_ref();
        let cooldown = owner.map_or(0, |owner| owner.cooldown_seconds);
        let after = now().saturating_add(cooldown);
        self.after(&Event::Ended { after })
    }

    /// The entry with what can be seen now of a namespace that lives without its path.
    #[must_use]
    pub(crate) fn looked_at(self, holders: &Holders) -> Self {
        let owner = self.owner.as_ref();
        let may_linger = owner.is_some_and(|owner| owner.may_linger(holders));
        // Without a view of the processes, what was seen earlier stays true.
        let lingers = may_linger || self.lingers && !holders.are_visible();
        Self { lingers, ..self }
    }

    /// The entry of a file, corrected: files of versions that did not record EC2's confirmation
    /// do not show that the address is on the ENI.
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

    /// The entry with all times moved by `seconds`, by which the clock was set.
    #[must_use]
    pub(super) fn moved_by(self, seconds: i64) -> Self {
        // 0 stands for never.
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
            returned: moved(self.returned),
            ..self
        }
    }

    /// Whether the address is on the ENI, according to EC2's answers.
    pub(crate) fn is_on_eni(&self) -> bool {
        match self.state {
            State::Held | State::Releasing { .. } | State::Pooled | State::Adopted => true,
            State::Claiming { .. } | State::Withdrawn { .. } | State::Removed => false,
        }
    }

    /// Whether EC2 has confirmed recently that the address is on the ENI, since then the ENI has
    /// not been away and no description has failed to show it, and no other node may take it.
    pub(crate) fn is_believed(&self, now: Timestamp) -> bool {
        let is_denied = self.is_earlier || self.floats || self.missing != 0;
        !is_denied && is_younger(self.confirmed, BELIEVED, now)
    }

    /// Whether EC2 has not confirmed the address since it was last removed, if it ever was.
    pub(crate) fn is_new(&self) -> bool {
        self.confirmed <= self.removal
    }

    /// Whether the last description has not shown the address.
    pub(crate) fn is_missing(&self) -> bool {
        self.missing != 0
    }

    /// Whether its state is of the last `seconds`. One that a clock which was set back since has
    /// written is not.
    pub(crate) fn is_of_the_last(&self, seconds: u64, now: Timestamp) -> bool {
        is_younger(self.since, seconds, now)
    }

    /// Whether descriptions may be older than the state in the ledger.
    pub(crate) fn is_too_young_to_compare(&self, now: Timestamp) -> bool {
        is_younger(self.since, DESCRIBE_LAG, now) || self.was_removed_lately(now)
    }

    /// Whether a description may still show the address although EC2 has removed it.
    pub(crate) fn was_removed_lately(&self, now: Timestamp) -> bool {
        is_younger(self.removal, DESCRIBE_LAG, now)
    }

    /// Whether an inventory that still counts may have the address although EC2 has removed it.
    pub(crate) fn is_removal_remembered(&self, now: Timestamp) -> bool {
        is_younger(self.removal, BELIEVED, now)
    }

    /// Whether a description may show the address although EC2 is removing it or has removed
    /// it: EC2 was asked to recently, and has not confirmed the address since.
    pub(crate) fn may_be_leaving(&self, now: Timestamp) -> bool {
        let is_asked = matches!(self.state, State::Releasing { asked: true, .. });
        (is_asked || !self.is_on_eni()) && self.was_removed_lately(now)
    }

    /// Whether two descriptions have shown the address, the second one later than the first by
    /// more than their lag.
    pub(crate) fn was_seen_twice(&self) -> bool {
        self.missing == 0 && self.confirmed >= self.since.saturating_add(DESCRIBE_LAG)
    }

    /// Whether a confirmation should be written down.
    pub(crate) fn needs_confirmation(&self, now: Timestamp) -> bool {
        self.missing != 0 || self.is_earlier || !is_younger(self.confirmed, FRESH, now)
    }

    /// What it means that a description does not show the address.
    pub(crate) fn absence(&self, now: Timestamp) -> Absence {
        if self.is_too_young_to_compare(now) || is_younger(self.confirmed, DESCRIBE_LAG, now) {
            return Absence::TooEarly;
        }
        // If the clock was set back without notice, a first look of the future proves nothing.
        let is_second = self.missing != 0 && self.missing <= now;
        if is_second && !is_younger(self.missing, DESCRIBE_LAG, now) {
            return Absence::Proven;
        }
        let missing = if is_second { self.missing } else { now };
        Absence::Noted(Box::new(Self {
            missing,
            ..self.clone()
        }))
    }

    /// When an address that no pod needs should be looked for on the ENI, to remove it; `None`
    /// while a pod needs it. If the clock was set back, that is at once, so that no address
    /// stays forever.
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

    /// Whether it belongs to `owner`'s attachment in the same namespace.
    pub(crate) fn is_owned_by(&self, owner: &Owner) -> bool {
        self.owner.as_ref().is_some_and(|own| own.is_same(owner))
    }

    /// Whether the agent itself wants the address, for a pool.
    pub(crate) fn is_for_pool(&self) -> bool {
        let owner = self.owner.as_ref();
        owner.is_some_and(|owner| matches!(owner.life, Life::Pool { .. }))
    }

    /// Whether the agent has found a reservation of the address for `owner`'s attachment, whose
    /// plugin claims it now.
    pub(crate) fn is_found_for(&self, owner: &Owner) -> bool {
        self.is_found_by_watching() && self.is_of_attachment(owner)
    }

    /// Whether the plugin of `owner`'s attachment has claimed the address. The plugin then also
    /// reports the end of the attachment, even if the reservation exists a moment longer.
    pub(crate) fn is_told_of(&self, owner: &Owner) -> bool {
        let own = self.owner.as_ref();
        let is_plugins = own.is_some_and(|own| matches!(own.life, Life::Namespace { .. }));
        is_plugins && self.is_of_attachment(owner)
    }

    fn is_of_attachment(&self, owner: &Owner) -> bool {
        let own = self.owner.as_ref();
        own.is_some_and(|own| own.is_attachment(&owner.network, &owner.container_id, &owner.ifname))
    }

    /// Whether the attachment is known only by a reservation of host-local: no process waits
    /// for the address.
    pub(crate) fn is_found_by_watching(&self) -> bool {
        let owner = self.owner.as_ref();
        owner.is_some_and(|owner| matches!(owner.life, Life::Reservation { .. }))
    }

    /// Whether the address belongs to a reservation of host-local that may still exist.
    pub(crate) fn is_reserved(&self) -> bool {
        let file = self.reservation();
        file.is_some_and(|file| !reservation_presence(file).has_ended())
    }

    /// The file of the reservation of host-local that the address belongs to.
    pub(crate) fn reservation(&self) -> Option<&Path> {
        match &self.owner.as_ref()?.life {
            Life::Reservation { reservation } => Some(reservation),
            Life::Namespace { .. } | Life::Pool { .. } => None,
        }
    }

    /// Whether no pod needs the address any more, whether it is on the ENI or not.
    pub(crate) fn is_leaving(&self) -> bool {
        match self.state {
            State::Releasing { .. } | State::Withdrawn { .. } | State::Removed => true,
            State::Held | State::Claiming { .. } | State::Pooled | State::Adopted => false,
        }
    }

    /// Whether it was claimed and EC2 has refused it.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(
            self.state,
            State::Claiming {
                refusal: Some(_),
                ..
            }
        )
    }

    /// Whether no owner is known, and EC2 did not choose the address for an attachment: an
    /// unknown pod may use it.
    pub(crate) fn is_unclaimed(&self) -> bool {
        self.owner.is_none() && !self.chosen
    }

    /// Whether an attachment has the address or is about to.
    pub(crate) fn is_in_use(&self) -> bool {
        matches!(self.state, State::Held | State::Claiming { .. })
    }

    /// Whether the address belongs to `owner`'s attachment, or is claimed for it, by whatever
    /// source the attachment is known.
    pub(crate) fn is_for(&self, owner: &Owner) -> bool {
        let own = self.owner.as_ref();
        self.is_in_use()
            && own.is_some_and(|own| {
                (&own.container_id, &own.ifname) == (&owner.container_id, &owner.ifname)
            })
    }

    /// Whether its owner may still exist, as far as this process can see: an owner in doubt
    /// exists.
    pub(crate) fn may_have_living_owner(&self, holders: &Holders) -> bool {
        let owner = self.owner.as_ref();
        owner.is_some_and(|owner| !owner.presence(holders).has_ended())
    }
}

/// Whether an event is the claim of a network whose addresses move between running nodes.
fn lets_float(event: &Event) -> bool {
    let always = Takeover::Always;
    matches!(event, Event::Claimed { takeover, .. } if *takeover == always)
}

/// Whether `time` is less than `seconds` ago. A time in the future is not.
pub(super) fn is_younger(time: Timestamp, seconds: u64, now: Timestamp) -> bool {
    now.checked_sub(time).is_some_and(|age| age < seconds)
}

/// The time now, in seconds since 1970.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
