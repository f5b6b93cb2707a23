//! Has EC2 choose addresses for attachments whose network names none: one call for all that
//! wait on an ENI at the moment when it is sent. Before EC2 is asked, they get addresses that it
//! has chosen earlier and that no pod needs.

mod chosen;

use std::cell::RefCell;
use std::iter;
use std::net::IpAddr;
use std::time::Duration;

use common::attach::inventory::Eni;
use common::error::{Error, ErrorCode, Errors, Result};
use common::say;

use self::chosen::{Parked, give};
use crate::ledger::{
    EniLedger, Entries, Entry, Event, Excluded, Owner, PARKED, Refusal, Takeover, Unheard, Whose,
    Wish, now,
};
use crate::registration::assign::{Assigner, Room};
use crate::registration::node::Node;
use crate::registration::prefixes::{ask, give};
use crate::registration::{release, rules, unheard};
use crate::vpc::ec2::Family;
use crate::vpc::failure::{Failure, Kind};

/// How often EC2 is asked for an attachment without being heard: each time it may have chosen
/// an address.
const ATTEMPTS: u32 = 3;
/// How long it is until the next time.
const PAUSE: Duration = Duration::from_secs(1);
/// How often EC2 is asked once more because it has chosen an address that is given to nobody.
const ROUNDS: usize = 8;
/// What to do where all that EC2 chooses is excluded.
const EXCLUDED: &str = "exclude in the configuration of the agent names them: a CIDR reservation of \
                        the subnet of type explicit keeps EC2 from choosing them";

/// Gives the wishes of `whose` free addresses of prefixes, and then addresses that EC2 has chosen
/// earlier and that nobody needs, where the ledger has any: these are claimed by name.
///
/// # Errors
/// Code 5 or 6 naming a file of the ledger.
pub(crate) fn serve(ledger: &EniLedger, eni: &Eni, whose: Whose<'_>) -> Result<()> {
    // Nobody looks into namespaces for addresses that nobody waits for.
    let Some(mut seen) = Seen::of(ledger, whose)? else {
        return Ok(());
    };
    if seen.has_prefixes || !eni.prefixes.is_empty() {
        give::serve(ledger, eni, whose)?;
        if Seen::of(ledger, whose)?.is_none() {
            return Ok(());
        }
        give::free_due(ledger, eni)?;
        give::serve(ledger, eni, whose)?;
        seen = match Seen::of(ledger, whose)? {
            Some(seen) => seen,
            None => return Ok(()),
        };
    }
    let mut spare = spare(ledger, &eni.mac, &seen)?;
    if spare.is_empty() {
        return Ok(());
    }
    let entries = ledger.open()?;
    for wish in open_wishes(&entries, whose)?.0 {
        while let Some(found) = next_of(&mut spare, wish.ipv6) {
            // Somebody else may have been faster.
            if entries.get(found.address)?.as_ref() == Some(&found) {
                claim(&entries, found, &wish)?;
                break;
            }
        }
    }
    Ok(())
}

/// What the ledger has for those who wait, read once for all of them.
struct Seen {
    entries: Vec<Entry>,
    excluded: Excluded,
    has_prefixes: bool,
}

impl Seen {
    /// `None` if no wish of `whose` is open. Without the list of excluded addresses nothing is
    /// chosen either, and who waits is refused when EC2 would be asked; addresses that are named
    /// do not depend on it.
    fn of(ledger: &EniLedger, whose: Whose<'_>) -> Result<Option<Self>> {
        let locked = ledger.open()?;
        let (open, entries) = open_wishes(&locked, whose)?;
        if open.is_empty() {
            return Ok(None);
        }
        let Ok(excluded) = locked.excluded() else {
            return Ok(None);
        };
        Ok(Some(Self {
            entries,
            excluded,
            has_prefixes: !locked.prefix_files()?.is_empty(),
        }))
    }
}

/// The addresses that may be given to the next attachment, each of them seen on the ENI of
/// late and of no pod.
fn spare(ledger: &EniLedger, mac: &str, seen: &Seen) -> Result<Vec<Entry>> {
    let spare = rules::spare(&seen.entries, now()).into_iter();
    let spare = spare.filter(|entry| !seen.excluded.contains(entry.address));
    let spare: Vec<Entry> = spare.cloned().collect();
    if spare.is_empty() {
        return Ok(spare);
    }
    let mut kept = Vec::new();
    let spare = release::without_living(ledger, spare, &mut kept)?;
    let spare = release::without_whole(ledger, mac, spare, &mut kept)?;
    for why in kept {
        say!("{why}");
    }
    Ok(spare)
}

fn next_of(spare: &mut Vec<Entry>, ipv6: bool) -> Option<Entry> {
    let position = spare
        .iter()
        .position(|entry| entry.address.is_ipv6() == ipv6)?;
    Some(spare.remove(position))
}

/// Writes down that a wish is for this address now.
fn claim(entries: &Entries, found: Entry, wish: &Wish) -> Result<()> {
    let owner = wish.owner.clone();
    let before = found.clone();
    let entry = Entry::claimed(found.address, Some(found), &CLAIMED, owner);
    if let Some(entry) = entry {
        entries.change(Some(&before), &entry.chosen(), &CLAIMED)?;
        entries.forget_wish(wish)?;
    }
    Ok(())
}

/// EC2 gives what it chooses to nobody else.
const CLAIMED: Event = Event::Claimed {
    takeover: Takeover::Never,
    best_effort: false,
};

/// The wishes of `whose` that EC2 has to be asked for, and the entries if there are any wishes.
/// One that is fulfilled already is of a process that was killed before it could remove it.
fn open_wishes(entries: &Entries, whose: Whose<'_>) -> Result<(Vec<Wish>, Vec<Entry>)> {
    let mut open = Vec::new();
    let wishes = entries.living_wishes(whose)?;
    // Most networks name their addresses: their ADDs read no entry more for this.
    if wishes.is_empty() {
        return Ok((open, Vec::new()));
    }
    let all = entries.all()?;
    for wish in wishes {
        let is_fulfilled = all
            .iter()
            .any(|entry| is_chosen_for(entry, &wish.owner, wish.ipv6));
        match is_fulfilled {
            true => entries.forget_wish(&wish)?,
            false if wish.refusal.is_none() => open.push(wish),
            false => {}
        }
    }
    Ok((open, all))
}

/// Whether an attachment has, or is getting, this address by EC2's choice.
pub(crate) fn is_chosen_for(entry: &Entry, owner: &Owner, ipv6: bool) -> bool {
    let is_meant = entry.chosen && entry.address.is_ipv6() == ipv6;
    is_meant && entry.is_in_use() && entry.is_owned_by(owner)
}

/// Asks EC2 for every attachment that waits for an address of its choice. Returns how long it
/// is until those are to be asked for again that EC2 has not answered about. Only for the one
/// in turn.
///
/// # Errors
/// Code 5 or 6 naming a file of the ledger; what EC2 says is written into the wishes.
pub(crate) fn settle(node: &Node<'_>, eni: &Eni, ledger: &EniLedger) -> Result<Option<Duration>> {
    let mut until_next = None;
    for family in Family::ALL {
        let counter = Counter {
            node,
            eni,
            ledger,
            family,
        };
        until_next = until_next.max(counter.settle()?);
    }
    Ok(until_next)
}

/// Asks EC2 to choose addresses of one family for one ENI.
struct Counter<'a> {
    node: &'a Node<'a>,
    eni: &'a Eni,
    ledger: &'a EniLedger,
    family: Family,
}

impl Counter<'_> {
    /// Asks until none of those waits that wait now. Whoever comes later has a turn of its own,
    /// if it is not served with them: nobody who is served waits for it.
    fn settle(&self) -> Result<Option<Duration>> {
        let (mut most, mut rounds) = (usize::MAX, ROUNDS);
        let first = self.waiting(&self.ledger.open()?)?;
        if first.is_empty() {
            return Ok(None);
        }
        loop {
            if let Err(error) = self.read_excluded() {
                self.refuse(&error)?;
                return Ok(None);
            }
            self.use_prefixes()?;
            let waiting = self.waiting(&self.ledger.open()?)?;
            if !first.iter().any(|wish| is_among(&waiting, wish)) {
                return Ok(None);
            }
            let (count, outcome) = self.ask(&first, most)?;
            let failure = match outcome {
                Ok(parked) if parked.count < count => {
                    rounds = ROUNDS;
                    // A wish that could not be read at that moment is there again: what was for it
                    // has gone to nobody.
                    serve(self.ledger, self.eni, Whose::Anybody)?;
                    continue;
                }
                // The next in turn asks.
                Ok(_) if self.node.aws.deadline().is_over() => return Ok(None),
                Ok(_) if rounds > 0 => {
                    rounds -= 1;
                    continue;
                }
                Ok(parked) => {
                    self.refuse(&self.nothing(parked))?;
                    continue;
                }
                Err(failure) => failure,
            };
            // Whoever has no time left has not heard what EC2 would answer: the next in turn asks.
            if self.node.aws.deadline().is_over() {
                return Ok(None);
            }
            if failure.kind == Kind::Unanswered {
                return self.note_unheard(&failure);
            }
            match self.fewer(count, &failure) {
                Ok(fewer) => most = fewer,
                Err(error) => self.refuse(&error)?,
            }
        }
    }

    /// The addresses that are given to nobody.
    fn read_excluded(&self) -> Result<Excluded> {
        self.ledger.open()?.excluded()
    }

    /// Gives those that wait addresses of new prefixes, where an agent keeps any. The others
    /// get single addresses.
    fn use_prefixes(&self) -> Result<()> {
        let (node, family) = (self.node, self.family);
        if node.shared.stock.level(self.eni, family).is_none() {
            return Ok(());
        }
        let waiting = self.waiting(&self.ledger.open()?)?.len();
        if waiting > 0 && ask::supply(node, self.eni, self.ledger, family, waiting)? {
            give::serve(self.ledger, self.eni, Whose::Anybody)?;
        }
        Ok(())
    }

    /// Those that wait for an address of this family.
    fn waiting(&self, entries: &Entries) -> Result<Vec<Wish>> {
        let (mut waiting, _) = open_wishes(entries, Whose::Anybody)?;
        waiting.retain(|wish| wish.ipv6 == (self.family == Family::V6));
        Ok(waiting)
    }

    /// Has EC2 choose an address for each that waits when it is asked, but `most` at most, and
    /// writes down for whom they are: the `first` before others. Returns how many were asked
    /// for, and which of them are for nobody.
    fn ask(&self, first: &[Wish], most: usize) -> Result<(usize, Result<Parked, Failure>)> {
        let ec2 = self.node.aws.ec2(&self.node.inventory.region)?;
        let earlier = unheard::earlier(self.ledger)?;
        let counted = RefCell::new(Ok(0));
        let count = || {
            let found = self.begin(earlier.as_ref(), most);
            let count = found.as_ref().map_or(0, |count| *count);
            *counted.borrow_mut() = found;
            count
        };
        let answer = ec2.assign_count(&self.eni.id, self.family, count);
        let outcome = match answer {
            Ok(None) => Ok(Parked::default()),
            // Whatever it has done, nobody was told.
            Ok(Some(chosen)) if chosen.is_empty() => Err(Failure::empty(self.action())),
            Ok(Some(chosen)) => Ok(self.note(first, &chosen)?),
            Err(failure) => Err(failure),
        };
        let is_unheard = outcome.as_ref().is_err_and(|f| f.kind == Kind::Unanswered);
        if !is_unheard {
            unheard::end(self.ledger, earlier)?;
        }
        Ok((counted.into_inner()?, outcome))
    }

    /// Writes down that EC2 is about to be asked for those that wait now, but for `most` at most.
    /// Returns for how many. Who comes while that is written down has a part in it, too.
    fn begin(&self, earlier: Option<&Unheard>, most: usize) -> Result<usize> {
        let mut noted = 0;
        loop {
            let wishes = self.ledger.waiting_wishes()?;
            let waiting = self.waiting(&self.ledger.open()?)?;
            let count = waiting.len().min(most);
            if count <= noted {
                return Ok(count);
            }
            unheard::begin(self.node, self.eni, self.ledger, earlier, count)?;
            // What all pods have is not read again for that.
            if self.ledger.waiting_wishes()? == wishes {
                return Ok(count);
            }
            noted = count;
        }
    }

    /// Gives what EC2 has chosen to those that wait. What nobody waits for any more is on its
    /// way out, and what is excluded later; what a pod has nevertheless stays as the ledger has it.
    /// Returns those that are for nobody.
    fn note(&self, first: &[Wish], chosen: &[IpAddr]) -> Result<Parked> {
        let node = (self.node.ledger, self.eni.mac.as_str());
        let (kept, why) = chosen::kept(node, self.ledger, chosen)?;
        let entries = self.ledger.open()?;
        let excluded = entries.excluded()?;
        let mut waiting = self.waiting(&entries)?;
        waiting.sort_by_key(|wish| !is_among(first, wish));
        let mut waiting = waiting.into_iter();
        let mut errors = Errors::default();
        let subnets = &self.node.shared.subnets;
        subnets.note_assigned(&self.eni.subnet_id, self.family, chosen.len());
        let mut parked = Parked { count: 0, why };
        for address in chosen {
            errors.keep(if excluded.contains(*address) {
                parked.count += 1;
                give(&entries, *address, &mut iter::empty(), now() + PARKED)
            } else if kept.contains(address) {
                parked.count += 1;
                match entries.get(*address)? {
                    Some(known) => entries.note(known, &Event::Seen),
                    None => give(&entries, *address, &mut iter::empty(), now() + PARKED),
                }
            } else {
                give(&entries, *address, &mut waiting, now())
            });
        }
        errors.into_result().map(|()| parked)
    }

    /// Why those that wait get nothing although EC2 has chosen something for them.
    fn nothing(&self, parked: Parked) -> Error {
        let Eni { id, subnet_id, .. } = self.eni;
        let family = self.family.name();
        let chosen = format!("every {family} address of {subnet_id} that EC2 chose for {id}");
        let (why, details) = match parked.why.into_iter().next() {
            Some(why) => ("is excluded, or may be in use", why),
            None => ("is excluded", EXCLUDED.to_owned()),
        };
        let msg = format!("{chosen} {why}");
        Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
    }

    /// Writes down that EC2 has not answered. What it may have done is looked for before it is
    /// asked again.
    fn note_unheard(&self, failure: &Failure) -> Result<Option<Duration>> {
        let entries = self.ledger.open()?;
        let mut until_next = None;
        for wish in self.waiting(&entries)? {
            let unheard = wish.unheard + 1;
            let refusal = (unheard >= ATTEMPTS).then(|| Refusal::of(&self.error(failure)));
            if refusal.is_none() {
                until_next = Some(PAUSE);
            }
            entries.write_wish(&Wish {
                unheard,
                refusal,
                ..wish
            })?;
        }
        Ok(until_next)
    }

    /// How many addresses are worth asking for when `count` were refused.
    ///
    /// # Errors
    /// Why there can be none.
    fn fewer(&self, count: usize, failure: &Failure) -> Result<usize> {
        match failure.kind {
            Kind::SlotsExhausted => self.make_room(count, failure),
            // EC2 assigns all or none, and there may be some.
            _ if failure.is_exhausted_subnet() && count > 1 => Ok(count / 2),
            _ => {
                if failure.is_exhausted_subnet() {
                    let subnets = &self.node.shared.subnets;
                    subnets.note_exhausted(&self.eni.subnet_id, self.family);
                }
                Err(self.error(failure))
            }
        }
    }

    /// The ENI is full: addresses in their cool-down make room, the oldest first.
    fn make_room(&self, count: usize, failure: &Failure) -> Result<usize> {
        let ec2 = self.node.aws.ec2(&self.node.inventory.region)?;
        let own = ec2.eni(&self.eni.id).map_err(|f| self.error(&f))?;
        let room = Assigner::new(self.node, self.eni)?.room(self.family, own.as_ref(), count);
        // By what we know there may be room; EC2 knows better.
        let fits = match room.made {
            0 => room.free().min(count / 2),
            _ => room.free().min(count),
        };
        match fits {
            0 => Err(self.full(&room, failure)),
            fits => Ok(fits),
        }
    }

    fn full(&self, room: &Room, failure: &Failure) -> Error {
        let (eni, kind) = (&self.eni.id, &self.node.inventory.instance_type);
        let Room { used, limit, .. } = room;
        let msg = format!(
            "{eni} has no room for another {} address: {used} of {limit} addresses used ({kind})",
            self.family.name()
        );
        Error::new(ErrorCode::TRY_AGAIN, msg).with_details(failure.answer.as_str())
    }

    /// Tells everybody who waits why there is no address.
    fn refuse(&self, error: &Error) -> Result<()> {
        let entries = self.ledger.open()?;
        for wish in self.waiting(&entries)? {
            let refusal = Some(Refusal::of(error));
            entries.write_wish(&Wish { refusal, ..wish })?;
        }
        Ok(())
    }

    fn error(&self, failure: &Failure) -> Error {
        let Eni { id, subnet_id, .. } = self.eni;
        let family = self.family.name();
        failure.error(&format!("get an {family} address of {subnet_id} for {id}"))
    }

    fn action(&self) -> &'static str {
        match self.family {
            Family::V4 => "AssignPrivateIpAddresses",
            Family::V6 => "AssignIpv6Addresses",
        }
    }
}

/// Whether an attachment is among those that wait.
fn is_among(waiting: &[Wish], wish: &Wish) -> bool {
    waiting.iter().any(|other| other.owner.is_same(&wish.owner))
}
