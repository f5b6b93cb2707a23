//! Under which attachment of its ENI EC2 has confirmed an address. While an ENI is away, others
//! can remove its addresses and assign them to other ENIs, so what EC2 has confirmed before the
//! ENI came back proves nothing.

use common::attach::inventory::Eni;
use common::error::Result;
use serde::{Deserialize, Serialize};

use super::entry::{DESCRIBE_LAG, Entry, Timestamp, is_younger};
use super::life_cycle::Event;
use super::{EniLedger, Entries, Ledger};

/// How far, in seconds, the clock of the node may be from that of EC2. Source: IAM User Guide,
/// "AWS Signature Version 4": a request must arrive within five minutes of its timestamp.
const CLOCK_SKEW: u64 = 300;
/// How old, in seconds, an inventory can be that is used.
const INVENTORY_AGE: u64 = 600;

/// One attachment of an ENI to this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attachment {
    /// EC2's id of it.
    id: String,
    /// When it began, in seconds since 1970 by EC2's clock; 0 if that is not known.
    attach_time: Timestamp,
    /// The index of the interface. The kernel gives an ENI that comes back another one, which is
    /// known while descriptions still show the attachment of before.
    interface_index: u32,
}

impl Attachment {
    /// The present attachment of an ENI; `None` if the inventory is of a version that did not
    /// write it down.
    pub(super) fn of(eni: &Eni) -> Option<Self> {
        (!eni.attachment_id.is_empty()).then(|| Self {
            id: eni.attachment_id.clone(),
            attach_time: eni.attach_time,
            interface_index: eni.interface_index,
        })
    }

    /// Whether it is the same attachment. EC2 may have said in one description only when it began.
    fn is_same(&self, other: &Self) -> bool {
        let times = [self.attach_time, other.attach_time];
        let is_same_time = times[0] == times[1] || times.contains(&0);
        let is_same_interface = self.interface_index == other.interface_index;
        self.id == other.id && is_same_interface && is_same_time
    }

    /// Whether it has EC2's id of `earlier`, and another interface: the description that it was
    /// made of may be older than the interface, and its time is that of the attachment before.
    fn may_be_of_before(&self, earlier: &Self) -> bool {
        let indexes = [self.interface_index, earlier.interface_index];
        self.id == earlier.id && indexes[0] != indexes[1] && !indexes.contains(&0)
    }

    /// Whether a description of this moment is certainly not older than the attachment.
    fn is_described(&self, now: Timestamp) -> bool {
        is_over(self.attach_time, DESCRIBE_LAG + CLOCK_SKEW, now)
    }
}

/// Whether so many seconds have passed since a known time.
fn is_over(time: Timestamp, seconds: u64, now: Timestamp) -> bool {
    time != 0 && time.saturating_add(seconds) <= now
}

impl Ledger {
    /// The part of the ledger that is about an ENI of this node: what EC2 has confirmed since that
    /// was attached is believed.
    ///
    /// # Errors
    /// As for [`Ledger::of_eni`].
    pub(crate) fn of_attached(&self, eni: &Eni) -> Result<EniLedger> {
        Ok(EniLedger {
            attachment: Attachment::of(eni),
            ..self.of_eni(&eni.id)?
        })
    }
}

impl Entries {
    /// The entry after `event`, as it is to be written down; `None` when it is to be removed.
    pub(crate) fn after(&self, entry: Entry, event: &Event) -> Option<Entry> {
        let after = entry.after(event)?;
        Some(after.proven_by(event, self.attachment.as_ref()))
    }
}

/// The entries as they are to be understood under this attachment.
pub(super) fn under(entries: Vec<Entry>, attachment: Option<&Attachment>) -> Vec<Entry> {
    let entries = entries.into_iter();
    entries.map(|entry| entry.under(attachment)).collect()
}

impl Entry {
    /// The entry as it is to be understood while the ENI has this attachment. Without one,
    /// nothing that EC2 has confirmed is believed.
    #[must_use]
    pub(super) fn under(self, present: Option<&Attachment>) -> Self {
        let is_earlier = !present.is_some_and(|present| self.is_proven_under(present));
        Self { is_earlier, ..self }
    }

    fn is_proven_under(&self, present: &Attachment) -> bool {
        match &self.attachment {
            Some(own) => own.is_same(present) && self.returned == 0,
            // Versions that did not write it down.
            None => is_over(present.attach_time, CLOCK_SKEW, self.confirmed),
        }
    }

    /// The entry after `event`, with what it proves under this attachment. An answer to a request
    /// is a proof. A description is one when it cannot be older than the attachment, or when an
    /// earlier one has shown the address as well and cannot be as old.
    #[must_use]
    pub(super) fn proven_by(self, event: &Event, present: Option<&Attachment>) -> Self {
        match present {
            Some(present) if event.is_confirmation() => {
                let is_answer = *event != Event::Seen;
                self.confirmed_under(present, is_answer, super::now())
            }
            _ => self,
        }
    }

    fn confirmed_under(self, present: &Attachment, is_answer: bool, now: Timestamp) -> Self {
        let is_same = |own: &Attachment| own.is_same(present);
        // If the clock was set back without notice, a first look of the future proves nothing.
        let is_first_known = self.returned != 0 && self.returned <= now;
        let first = Some(self.returned)
            .filter(|_| is_first_known && self.attachment.as_ref().is_some_and(is_same));
        let is_second = first.is_some_and(|first| !is_younger(first, DESCRIBE_LAG, now));
        let is_late = first.is_none()
            && !self.is_contradicted_by(Some(present.clone()))
            && present.is_described(now);
        let is_proof = is_answer || !self.is_earlier || is_second || is_late;
        Self {
            attachment: Some(present.clone()),
            returned: if is_proof { 0 } else { first.unwrap_or(now) },
            is_earlier: !is_proof,
            ..self
        }
    }

    /// Whether what an inventory shows, which is used at this moment, is of the ENI as it is
    /// attached now, and not of the time before.
    pub(crate) fn may_be_listed(&self, eni: &Eni, now: Timestamp) -> bool {
        let longest = DESCRIBE_LAG + CLOCK_SKEW + INVENTORY_AGE;
        let is_inventory_of_now = || {
            let is_doubtful = self.returned != 0 || self.is_contradicted_by(Attachment::of(eni));
            !is_doubtful && is_over(eni.attach_time, longest, now)
        };
        !self.is_earlier || is_inventory_of_now()
    }

    fn is_contradicted_by(&self, present: Option<Attachment>) -> bool {
        let both = self.attachment.as_ref().zip(present);
        both.is_some_and(|(own, present)| present.may_be_of_before(own))
    }

    /// Whether EC2 has confirmed the address only before the ENI was attached to this node as it
    /// is now, or that is not known.
    pub(crate) fn is_of_earlier_attachment(&self) -> bool {
        self.is_earlier
    }

    /// Whether one more description is needed to prove that the address is on the ENI.
    pub(crate) fn needs_second_look(&self) -> bool {
        self.returned != 0 && self.is_on_eni() && !self.is_missing()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const NOW: Timestamp = 100_000;

    fn attachment(id: &str, interface_index: u32, attach_time: Timestamp) -> Attachment {
        Attachment {
            id: id.to_owned(),
            attach_time,
            interface_index,
        }
    }

    /// An address that EC2 has assigned under this attachment, and its entry as it is read under
    /// another one.
    fn assigned(under: &Attachment, read_under: &Attachment) -> Entry {
        let claimed = Event::Claimed {
            takeover: crate::ledger::Takeover::Never,
            best_effort: false,
        };
        let entry = Entry::begin(IpAddr::from([10, 0, 4, 70]), &claimed, None).unwrap();
        let assigned = Event::Assigned { for_pool: true };
        let entry = entry.after(&assigned).unwrap();
        let entry = entry.proven_by(&assigned, Some(under));
        entry.under(Some(read_under))
    }

    #[test]
    fn what_ec2_has_assigned_is_believed_under_the_same_attachment_only() {
        let first = attachment("eni-attach-1", 3, NOW);
        for (other, is_earlier) in [
            (first.clone(), false),
            (attachment("eni-attach-2", 3, NOW + 9), true),
            // A description that does not say when it began.
            (attachment("eni-attach-1", 3, 0), false),
            (attachment("eni-attach-1", 3, NOW + 9), true),
            // A description of before, after the ENI has come back.
            (attachment("eni-attach-1", 7, NOW), true),
        ] {
            let entry = assigned(&first, &other);
            assert_eq!(entry.is_of_earlier_attachment(), is_earlier, "{other:?}");
            assert_eq!(entry.is_believed(super::super::now()), !is_earlier);
        }
        let unknown = assigned(&first, &first).under(None);
        assert!(unknown.is_of_earlier_attachment());
    }

    #[test]
    fn a_description_that_may_be_older_than_the_attachment_proves_nothing_alone() {
        let (first, second) = (attachment("a", 3, 1), attachment("b", 4, NOW));
        let back = assigned(&first, &second);
        let seen = |entry: Entry, now| entry.confirmed_under(&second, false, now);
        let once = seen(back.clone(), NOW + 1);
        assert!(once.is_of_earlier_attachment() && once.needs_second_look());
        let soon = seen(once.clone(), NOW + DESCRIBE_LAG);
        assert!(soon.is_of_earlier_attachment(), "{soon:?}");
        let later = seen(soon, NOW + 1 + DESCRIBE_LAG);
        assert!(!later.is_of_earlier_attachment() && !later.needs_second_look());
        // A first look of the future, and one under another attachment.
        assert!(seen(once.clone(), NOW - 3600).is_of_earlier_attachment());
        let third = attachment("c", 5, NOW + 30);
        let again = once.under(Some(&third));
        let again = again.confirmed_under(&third, false, NOW + 2 * DESCRIBE_LAG);
        assert!(again.is_of_earlier_attachment(), "{again:?}");
    }

    /// The interface is new, and EC2 still describes the attachment of the one before.
    #[test]
    fn a_description_of_the_attachment_before_is_not_believed_by_its_age() {
        let (first, back) = (attachment("a", 3, 1), attachment("a", 4, 1));
        let seen = |entry: Entry, now| entry.confirmed_under(&back, false, now);
        let once = seen(assigned(&first, &back), NOW);
        assert!(once.is_of_earlier_attachment());
        let soon = seen(once.clone(), NOW + DESCRIBE_LAG - 1);
        assert!(soon.is_of_earlier_attachment());
        assert!(!seen(once, NOW + DESCRIBE_LAG).is_of_earlier_attachment());
    }

    #[test]
    fn a_description_of_an_old_attachment_proves_at_once() {
        let (first, second) = (attachment("a", 3, 1), attachment("b", 4, NOW));
        let at = |now| {
            let seen = assigned(&first, &second).confirmed_under(&second, false, now);
            seen.is_of_earlier_attachment()
        };
        assert!(at(NOW + DESCRIBE_LAG + CLOCK_SKEW - 1));
        assert!(!at(NOW + DESCRIBE_LAG + CLOCK_SKEW));
    }

    #[test]
    fn what_an_earlier_version_has_written_is_believed_if_it_is_younger_than_the_attachment() {
        let entry = |confirmed| {
            let written = serde_json::json!({
                "address": "10.0.4.70", "state": "pooled", "since": 1, "confirmed": confirmed,
            });
            serde_json::from_value::<Entry>(written).unwrap()
        };
        let present = attachment("a", 3, NOW);
        for (confirmed, is_earlier) in [
            (0, true),
            (NOW + CLOCK_SKEW - 1, true),
            (NOW + CLOCK_SKEW, false),
        ] {
            let entry = entry(confirmed).under(Some(&present));
            assert_eq!(entry.is_of_earlier_attachment(), is_earlier, "{confirmed}");
        }
        let unknown = attachment("a", 3, 0);
        assert!(entry(NOW).under(Some(&unknown)).is_of_earlier_attachment());
    }
}
