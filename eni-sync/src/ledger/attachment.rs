//! Under which attachment of its ENI EC2 has confirmed an address. While an ENI is away, others
//! can remove its addresses and assign them to other ENIs, so what EC2 has confirmed before the
//! ENI came back proves nothing. It can also be away while the node is down: what was confirmed in an
//! earlier boot proves nothing either, until a description is certainly younger than the boot.

use std::time::Duration;

use common::attach::inventory::Eni;
use common::error::Result;
use common::records::boot_id;
use serde::{Deserialize, Serialize};

use super::clock;
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
    /// The boot in which it was seen: after another one, the index says nothing. Empty where an
    /// earlier version has written it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    boot_id: String,
}

impl Attachment {
    /// Whether it is the same attachment in the same boot. EC2 may have said in one description only
    /// when it began.
    fn is_same(&self, other: &Self) -> bool {
        let is_same_interface = self.interface_index == other.interface_index;
        self.is_described_as(other) && is_same_interface && !self.is_of_other_boot(other)
    }

    /// Whether a description shows the same for both.
    fn is_described_as(&self, other: &Self) -> bool {
        let times = [self.attach_time, other.attach_time];
        self.id == other.id && (times[0] == times[1] || times.contains(&0))
    }

    /// Whether it was seen in another boot of the node. Versions that did not write that down do
    /// not tell.
    fn is_of_other_boot(&self, other: &Self) -> bool {
        let boots = [self.boot_id.as_str(), other.boot_id.as_str()];
        boots[0] != boots[1] && !boots.contains(&"")
    }

    /// Whether it has EC2's id of `earlier`, and another interface in the same boot: the
    /// description that it was made of may be older than the interface, and its time is that of
    /// the attachment before.
    fn may_be_of_before(&self, earlier: &Self) -> bool {
        let indexes = [self.interface_index, earlier.interface_index];
        let is_other = indexes[0] != indexes[1] && !indexes.contains(&0);
        self.id == earlier.id && is_other && !self.is_of_other_boot(earlier)
    }
}

/// The attachment that an ENI has now, as far as the inventory shows.
#[derive(Clone, Debug)]
pub(super) struct Present {
    attachment: Attachment,
    /// How many seconds the node has been up.
    up: u64,
}

impl Present {
    /// The present attachment of an ENI; `None` if the inventory is of a version that did not
    /// write it down.
    ///
    /// # Errors
    /// Code 5 naming the file of the boot id, 999 when the kernel does not tell the time.
    fn of(eni: &Eni) -> Result<Option<Self>> {
        if eni.attachment_id.is_empty() {
            return Ok(None);
        }
        let attachment = Attachment {
            id: eni.attachment_id.clone(),
            attach_time: eni.attach_time,
            interface_index: eni.interface_index,
            boot_id: boot_id()?,
        };
        let up = clock::up()?;
        Ok(Some(Self { attachment, up }))
    }

    /// Whether a description of this moment is certainly younger than the boot: the ENI was not
    /// away since, or has another interface.
    fn is_described_since_boot(&self) -> bool {
        self.up >= DESCRIBE_LAG
    }

    /// Whether a description of this moment is certainly not older than the attachment.
    fn is_described(&self, now: Timestamp) -> bool {
        let is_old = is_over(self.attachment.attach_time, DESCRIBE_LAG + CLOCK_SKEW, now);
        is_old && self.is_described_since_boot()
    }

    /// Whether an inventory that is used at this moment is certainly not older than the attachment.
    fn is_in_inventory(&self, now: Timestamp) -> bool {
        let longest = DESCRIBE_LAG + INVENTORY_AGE;
        is_over(self.attachment.attach_time, longest + CLOCK_SKEW, now) && self.up >= longest
    }
}

/// How long it is, after a reboot, until a description proves what was confirmed before it; `None`
/// if it does, or that cannot be told.
pub(crate) fn until_described_since_boot() -> Option<Duration> {
    let left = DESCRIBE_LAG.checked_sub(clock::up().ok()?)?;
    (left > 0).then(|| Duration::from_secs(left))
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
    /// As for [`Ledger::of_eni`], code 5 naming the file of the boot id, and 999 when the kernel does
    /// not tell the time.
    pub(crate) fn of_attached(&self, eni: &Eni) -> Result<EniLedger> {
        Ok(EniLedger {
            attachment: Present::of(eni)?,
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
pub(super) fn under(entries: Vec<Entry>, present: Option<&Present>) -> Vec<Entry> {
    let entries = entries.into_iter();
    entries.map(|entry| entry.under(present)).collect()
}

impl Entry {
    /// The entry as it is to be understood while the ENI has this attachment. Without one,
    /// nothing that EC2 has confirmed is believed.
    #[must_use]
    pub(super) fn under(self, present: Option<&Present>) -> Self {
        let is_proven = |present: &Present| self.is_proven_under(&present.attachment);
        let is_earlier = !present.is_some_and(is_proven);
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
    pub(super) fn proven_by(self, event: &Event, present: Option<&Present>) -> Self {
        match present {
            Some(present) if event.is_confirmation() => {
                let is_answer = *event != Event::Seen;
                self.confirmed_under(present, is_answer, super::now())
            }
            _ => self,
        }
    }

    fn confirmed_under(self, present: &Present, is_answer: bool, now: Timestamp) -> Self {
        let own = self.attachment.as_ref();
        let is_of_other_boot = own.is_some_and(|own| own.is_of_other_boot(&present.attachment));
        if is_of_other_boot && !is_answer && !present.is_described_since_boot() {
            return self;
        }
        // Since the boot, its time is that of the present attachment, or not known.
        let is_as_before = is_of_other_boot
            && present.attachment.attach_time != 0
            && own.is_some_and(|own| own.is_described_as(&present.attachment));
        // If the clock was set back without notice, a first look of the future proves nothing.
        let is_first_known = self.returned != 0 && self.returned <= now;
        let first = Some(self.returned)
            .filter(|_| is_first_known && own.is_some_and(|own| own.is_same(&present.attachment)));
        let is_second = first.is_some_and(|first| !is_younger(first, DESCRIBE_LAG, now));
        let is_late = first.is_none() && !self.is_contradicted_by(present);
        let is_late = is_late && (is_as_before || present.is_described(now));
        let is_proof = is_answer || !self.is_earlier || is_second || is_late;
        Self {
            attachment: Some(present.attachment.clone()),
            returned: if is_proof { 0 } else { first.unwrap_or(now) },
            is_earlier: !is_proof,
            ..self
        }
    }

    /// Whether what an inventory shows, which is used at this moment, is of the ENI as it is
    /// attached now, and not of the time before.
    pub(crate) fn may_be_listed(&self, eni: &Eni, now: Timestamp) -> bool {
        let is_listed = |present: &Present| self.may_be_listed_under(present, now);
        // Without the boot, it is not known.
        !self.is_earlier
            || Present::of(eni)
                .ok()
                .flatten()
                .is_some_and(|p| is_listed(&p))
    }

    fn may_be_listed_under(&self, present: &Present, now: Timestamp) -> bool {
        let is_doubtful = self.returned != 0 || self.is_contradicted_by(present);
        !is_doubtful && present.is_in_inventory(now)
    }

    fn is_contradicted_by(&self, present: &Present) -> bool {
        let own = self.attachment.as_ref();
        own.is_some_and(|own| present.attachment.may_be_of_before(own))
    }

    /// Whether EC2 has confirmed the address only before the ENI was attached to this node as it
    /// is now, or in an earlier boot, or that is not known.
    pub(crate) fn is_of_earlier_attachment(&self) -> bool {
        self.is_earlier
    }

    /// Whether one more description is needed to prove that the address is on the ENI.
    pub(crate) fn needs_second_look(&self) -> bool {
        self.is_earlier && self.is_on_eni() && !self.is_missing()
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
            boot_id: "b".to_owned(),
        }
    }

    /// That attachment on a node that has been up for an hour.
    fn now_attached(attachment: &Attachment) -> Present {
        Present {
            attachment: attachment.clone(),
            up: 3600,
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
        let entry = entry.proven_by(&assigned, Some(&now_attached(under)));
        entry.under(Some(&now_attached(read_under)))
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
        let present = now_attached(&second);
        let seen = |entry: Entry, now| entry.confirmed_under(&present, false, now);
        let once = seen(back.clone(), NOW + 1);
        assert!(once.is_of_earlier_attachment() && once.needs_second_look());
        let soon = seen(once.clone(), NOW + DESCRIBE_LAG);
        assert!(soon.is_of_earlier_attachment(), "{soon:?}");
        let later = seen(soon, NOW + 1 + DESCRIBE_LAG);
        assert!(!later.is_of_earlier_attachment() && !later.needs_second_look());
        // A first look of the future, and one under another attachment.
        assert!(seen(once.clone(), NOW - 3600).is_of_earlier_attachment());
        let third = now_attached(&attachment("c", 5, NOW + 30));
        let again = once.under(Some(&third));
        let again = again.confirmed_under(&third, false, NOW + 2 * DESCRIBE_LAG);
        assert!(again.is_of_earlier_attachment(), "{again:?}");
    }

    /// The interface is new, and EC2 still describes the attachment of the one before.
    #[test]
    fn a_description_of_the_attachment_before_is_not_believed_by_its_age() {
        let (first, back) = (attachment("a", 3, 1), attachment("a", 4, 1));
        let present = now_attached(&back);
        let seen = |entry: Entry, now| entry.confirmed_under(&present, false, now);
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
            let present = now_attached(&second);
            let seen = assigned(&first, &second).confirmed_under(&present, false, now);
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
        let present = now_attached(&attachment("a", 3, NOW));
        for (confirmed, is_earlier) in [
            (0, true),
            (NOW + CLOCK_SKEW - 1, true),
            (NOW + CLOCK_SKEW, false),
        ] {
            let entry = entry(confirmed).under(Some(&present));
            assert_eq!(entry.is_of_earlier_attachment(), is_earlier, "{confirmed}");
        }
        let unknown = now_attached(&attachment("a", 3, 0));
        assert!(entry(NOW).under(Some(&unknown)).is_of_earlier_attachment());
    }

    /// What EC2 has assigned in the boot before, and the present attachment, which looks the same.
    fn rebooted(up: u64) -> (Entry, Present) {
        let before = attachment("a", 3, 1);
        let present = Present {
            attachment: Attachment {
                boot_id: "c".to_owned(),
                // Interfaces are numbered anew.
                interface_index: 4,
                ..before.clone()
            },
            up,
        };
        (assigned(&before, &present.attachment), present)
    }

    #[test]
    fn after_a_reboot_a_description_proves_nothing_while_it_may_be_older_than_the_boot() {
        let (entry, early) = rebooted(DESCRIBE_LAG - 1);
        assert!(entry.is_of_earlier_attachment());
        let once = entry.confirmed_under(&early, false, NOW);
        assert!(once.is_of_earlier_attachment() && once.needs_second_look());
        let late = Present {
            up: DESCRIBE_LAG,
            ..early.clone()
        };
        let seen = once.confirmed_under(&late, false, NOW + 1);
        assert!(!seen.is_of_earlier_attachment() && !seen.needs_second_look());
        let (entry, _) = rebooted(1);
        let answered = entry.confirmed_under(&early, true, NOW);
        assert!(!answered.is_of_earlier_attachment());
    }

    /// It is of the boot before, or of an attachment that began while the node was down.
    #[test]
    fn after_a_reboot_the_age_of_an_attachment_proves_nothing_at_first() {
        let (entry, early) = rebooted(DESCRIBE_LAG - 1);
        let other = Present {
            attachment: attachment("d", 4, 1),
            ..early.clone()
        };
        for present in [early, other] {
            let new = Entry {
                attachment: None,
                ..entry.clone()
            };
            let seen = new.confirmed_under(&present, false, NOW);
            assert!(seen.is_of_earlier_attachment() && seen.needs_second_look());
        }
    }

    #[test]
    fn after_a_reboot_an_inventory_proves_nothing_while_it_may_be_older_than_the_boot() {
        let longest = DESCRIBE_LAG + INVENTORY_AGE;
        for (up, is_listed) in [(longest - 1, false), (longest, true)] {
            let (entry, present) = rebooted(up);
            assert_eq!(entry.may_be_listed_under(&present, NOW), is_listed, "{up}");
        }
    }

    #[test]
    fn a_version_that_did_not_write_the_boot_down_is_believed_as_before() {
        let old = Attachment {
            boot_id: String::new(),
            ..attachment("a", 3, 1)
        };
        let written = serde_json::to_value(&old).unwrap();
        assert!(written.get("bootId").is_none(), "{written}");
        let entry = assigned(&old, &attachment("a", 3, 1));
        assert!(!entry.is_of_earlier_attachment());
        assert!(assigned(&old, &attachment("a", 4, 1)).is_of_earlier_attachment());
    }
}
