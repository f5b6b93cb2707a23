//! Asks EC2 for prefixes of an ENI by number, so that EC2 chooses them and two nodes cannot ask
//! for the same ones. If an answer was lost, the chosen prefixes are found on the ENI later.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use common::address::Cidr;
use common::attach::inventory::Eni;
use common::error::{Error, ErrorCode, Result};
use common::say;

use super::occupied::{note, occupied};
use super::stock::Level;
use super::supply::{IPV4_SIZE, Slots, missing};
use crate::ledger::{Asked, EniLedger, Entries, Entry, Event, Prefix, State, now};
use crate::registration::lost::{self, Beside, Evidence, Verdict, mixed};
use crate::registration::node::Node;
use crate::vpc::ec2::{Description, Family};
use crate::vpc::failure::{Failure, Kind};

/// Asks for the prefixes that the stock of an ENI lacks while `waiting` attachments wait for an
/// address of a family. Returns whether there are more now. The caller must have the turn.
///
/// # Errors
/// Code 5 or 6 naming a file of the ledger. A refusal of EC2 is noted in the stock, and the
/// waiting attachments get single addresses.
pub(crate) fn supply(
    node: &Node<'_>,
    eni: &Eni,
    ledger: &EniLedger,
    family: Family,
    waiting: usize,
) -> Result<bool> {
    let Some(level) = node.shared.stock.level(eni, family) else {
        return Ok(false);
    };
    let order = Order {
        node,
        eni,
        ledger,
        family,
        list: None,
    };
    order.fill(level, waiting)
}

/// The ranges file by which host-local gives out addresses of prefixes.
#[derive(Clone, Copy)]
pub(crate) struct List<'a> {
    pub(crate) file: &'a Path,
    /// The addresses that its host-local has reserved, also for pods that eni-sync does not know.
    pub(crate) reserved: &'a [IpAddr],
}

/// A request for prefixes of one family for one ENI.
pub(crate) struct Order<'a> {
    pub(crate) node: &'a Node<'a>,
    pub(crate) eni: &'a Eni,
    pub(crate) ledger: &'a EniLedger,
    pub(crate) family: Family,
    /// The ranges file that is to have them; `None` for networks without addresses.
    pub(crate) list: Option<List<'a>>,
}

impl<'a> Order<'a> {
    /// The same for host-local.
    pub(crate) fn listed_in<'b>(&self, list: List<'b>) -> Order<'b>
    where
        'a: 'b,
    {
        let list = Some(list);
        Order { list, ..*self }
    }

    /// Reopens prefixes that are being released, and asks EC2 for those that are missing even
    /// then. Returns whether there are more than before.
    ///
    /// # Errors
    /// As for [`supply`].
    pub(crate) fn fill(&self, level: Level, waiting: usize) -> Result<bool> {
        let mut count = match self.missing(level, waiting) {
            // An earlier request cannot be read: EC2 is not asked again until it is known.
            Err(error) if error.code == ErrorCode::DECODING => {
                self.note_refusal(&error, "");
                return Ok(false);
            }
            count => count?,
        };
        let is_back = count > 0 && self.take_back()?;
        if is_back {
            count = self.missing(level, waiting)?;
        }
        let stock = &self.node.shared.stock;
        if count == 0 || !stock.may_ask(self.eni, self.family, Instant::now()) {
            return Ok(is_back);
        }
        if let Err(error) = self.require_family() {
            self.note_refusal(&error, "");
            return Ok(is_back);
        }
        let slots = self.slots()?;
        if slots.left() == 0 {
            let details = "each prefix takes the place of one address";
            self.note_refusal(&self.full(&slots, details), "");
            return Ok(is_back);
        }
        let is_more = self.ask_as_many(count.min(slots.left()))?;
        Ok(is_more || is_back)
    }

    /// The ranges file that is to have the prefixes.
    pub(crate) fn ranges_file(&self) -> Option<&Path> {
        self.list.map(|list| list.file)
    }

    /// The prefixes of this family that are for the same pods.
    fn own(&self, entries: &Entries) -> Result<Vec<Prefix>> {
        let ipv6 = self.family == Family::V6;
        let mut own = entries.prefixes()?;
        own.retain(|prefix| prefix.is_ipv6() == ipv6);
        own.retain(|prefix| prefix.ranges_file.as_deref() == self.ranges_file());
        Ok(own)
    }

    /// The entries of the ledger, and one for each other address that host-local has reserved.
    fn taken(&self, entries: &Entries) -> Result<Vec<Entry>> {
        let mut taken = entries.all()?;
        let reserved = self.list.map_or(&[][..], |list| list.reserved);
        let unknown = reserved.iter().filter(|address| {
            let mut known = taken.iter();
            known.all(|entry| entry.address != **address)
        });
        let unknown = unknown.filter_map(|address| Entry::begin(*address, &Event::Seen, None));
        let unknown: Vec<Entry> = unknown.collect();
        taken.extend(unknown);
        Ok(taken)
    }

    fn missing(&self, level: Level, waiting: usize) -> Result<usize> {
        let entries = self.ledger.open()?;
        if entries.asked(self.family == Family::V6)?.is_some() {
            // The requested prefixes may be on the ENI already.
            return Ok(0);
        }
        let own = self.own(&entries)?;
        let own: Vec<&Prefix> = own.iter().collect();
        let taken = self.taken(&entries)?;
        Ok(missing(level, &own, &taken, waiting, self.family))
    }

    /// Reopens prefixes that are being released and that EC2 was not asked to remove. Returns
    /// whether there was one.
    fn take_back(&self) -> Result<bool> {
        let entries = self.ledger.open()?;
        let mut is_back = false;
        for prefix in self.own(&entries)? {
            if matches!(prefix.entry.state, State::Releasing { asked: false, .. }) {
                entries.note_prefix(&prefix, &Event::Pooled)?;
                is_back = true;
            }
        }
        Ok(is_back)
    }

    fn slots(&self) -> Result<Slots> {
        let entries = self.ledger.open()?;
        let (all, prefixes) = (entries.all()?, entries.prefixes()?);
        Ok(Slots::of(self.eni, &all, &prefixes, self.family))
    }

    /// Asks for `count` prefixes, or for fewer if EC2 has no room for all: it assigns all or
    /// none.
    fn ask_as_many(&self, mut count: usize) -> Result<bool> {
        let stock = &self.node.shared.stock;
        loop {
            let Err(failure) = self.ask(count)? else {
                stock.accept(self.eni, self.family);
                return Ok(true);
            };
            let is_too_much = failure.is_without_prefixes() || failure.kind == Kind::SlotsExhausted;
            if is_too_much && count > 1 {
                count /= 2;
                continue;
            }
            match failure.kind {
                // A lost answer is looked for before EC2 is asked again; a throttled call waits
                // for the budget.
                Kind::Unanswered | Kind::Throttled => say!("{}", self.error(&failure)),
                _ => self.note_refusal(&self.error(&failure), &self.advice(&failure)),
            }
            return Ok(false);
        }
    }

    /// Has EC2 choose `count` prefixes, and writes them into the ledger. The request is written
    /// before EC2 is asked.
    fn ask(&self, count: usize) -> Result<Result<(), Failure>> {
        let ec2 = self.node.aws.ec2(&self.node.inventory.region)?;
        let ipv6 = self.family == Family::V6;
        let before = self.before()?;
        let asked = (count, self.ranges_file());
        self.ledger.open()?.begin_asking(ipv6, asked, before)?;
        let answer = match ec2.assign_prefixes(&self.eni.id, self.family, count) {
            // An answer without prefixes does not tell what EC2 has done.
            Ok(chosen) if chosen.is_empty() => Err(Failure::empty("AssignPrivateIpAddresses")),
            answer => answer,
        };
        // The ledger is not locked here: pods must not wait while all namespaces are read.
        let occupied = match &answer {
            Ok(chosen) => occupied(self.node.ledger, chosen),
            Err(_) => None,
        };
        let entries = self.ledger.open()?;
        let outcome = match answer {
            Err(failure) if failure.kind == Kind::Unanswered => return Ok(Err(failure)),
            Err(failure) => Err(failure),
            Ok(chosen) => {
                // EC2 does not count the free IPv6 addresses of a subnet, so this subtraction
                // is for IPv4.
                let addresses = chosen.len().saturating_mul(IPV4_SIZE);
                let subnets = &self.node.shared.subnets;
                subnets.note_assigned(&self.eni.subnet_id, self.family, addresses);
                note(&entries, &chosen, self.ranges_file(), occupied.as_deref())?;
                Ok(())
            }
        };
        entries.end_asking(ipv6)?;
        Ok(outcome)
    }

    /// The prefixes that are on the ENI before EC2 is asked, by the inventory, the metadata if the
    /// service answers, and the ledger: each may lack a new prefix. A prefix that is gone by the
    /// ledger may be chosen again, so it is left out.
    fn before(&self) -> Result<Vec<Cidr>> {
        let imds = self.node.aws.imds_soon();
        let shown = imds.and_then(|imds| imds.prefixes(&self.eni.mac));
        let mut before = match shown {
            Ok(shown) => shown,
            Err(_) => self.described()?,
        };
        before.retain(|prefix| !self.eni.prefixes.contains(prefix));
        before.extend(&self.eni.prefixes);
        for known in self.ledger.open()?.prefixes()? {
            before.retain(|prefix| *prefix != known.prefix);
            if known.entry.is_on_eni() {
                before.push(known.prefix);
            }
        }
        Ok(before)
    }

    /// The prefixes of the ENI by EC2, or by the inventory if EC2 does not show the ENI.
    fn described(&self) -> Result<Vec<Cidr>> {
        let found = self.node.aws.ec2(&self.node.inventory.region)?;
        let found = found.eni(&self.eni.id);
        let found = found.map_err(|failure| self.error(&failure))?;
        Ok(found.map_or_else(|| self.eni.prefixes.clone(), |found| found.prefixes))
    }

    fn require_family(&self) -> Result<()> {
        let Eni { id, subnet_id, .. } = self.eni;
        let is_of = |cidr: &Cidr| Family::of(cidr.address()) == self.family;
        if self.eni.subnet_cidrs.iter().any(is_of) {
            return Ok(());
        }
        let family = self.family.name();
        let msg = format!("{subnet_id}, the subnet of {id}, has no {family} range for prefixes");
        let details = "give the subnet a range, or keep no prefixes of this family";
        Err(Error::config(msg).with_details(details))
    }

    fn full(&self, slots: &Slots, details: &str) -> Error {
        let (id, kind) = (&self.eni.id, &self.node.inventory.instance_type);
        let family = self.family.name();
        let Slots { used, limit, .. } = slots;
        let msg = format!(
            "{id} has no room for an {family} prefix: {used} of {limit} addresses used ({kind})"
        );
        Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
    }

    fn error(&self, failure: &Failure) -> Error {
        let Eni { id, subnet_id, .. } = self.eni;
        let family = self.family.name();
        failure.error(&format!("get an {family} prefix of {subnet_id} for {id}"))
    }

    /// The advice about a subnet without free prefixes.
    fn advice(&self, failure: &Failure) -> String {
        match failure.is_without_prefixes() {
            true => format!("; {}", reservation_command(&self.eni.subnet_id)),
            false => String::new(),
        }
    }

    /// Notes in the stock why there are no more prefixes, with the advice.
    fn note_refusal(&self, error: &Error, advice: &str) {
        let until = match self.list {
            None => "pods get single addresses until there are prefixes",
            Some(_) => "host-local has no more addresses until there are prefixes",
        };
        let why = format!("{error}; {until}{advice}");
        let stock = &self.node.shared.stock;
        stock.refuse(self.eni, self.family, why, Instant::now());
    }
}

/// The advice how to keep a part of a subnet free for prefixes.
pub(crate) fn reservation_command(subnet_id: &str) -> String {
    format!(
        "a part of the subnet is kept free for prefixes by: aws ec2 \
         create-subnet-cidr-reservation --subnet-id {subnet_id} --reservation-type prefix \
         --cidr CIDR"
    )
}

/// The request for prefixes whose answer is not known, if it can be read. A damaged file is
/// removed: the prefixes that EC2 chose are then adopted like any unknown prefix.
///
/// # Errors
/// Code 5 naming the file.
pub(crate) fn asked(entries: &Entries, ipv6: bool) -> Result<Option<Asked>> {
    match entries.asked(ipv6) {
        Err(error) if error.code == ErrorCode::DECODING => {
            if entries.forget_damaged_asked(ipv6)? {
                say!("{}; it is removed", error.msg);
            }
            Ok(None)
        }
        asked => asked,
    }
}

/// The addresses that somebody has already in what may be EC2's answer to a request for prefixes;
/// `None` when that cannot be found out. The ledger is not locked while the namespaces are read.
///
/// # Errors
/// Code 5 or 6 naming a file of the ledger.
pub(crate) fn occupied_beside(
    node: &Node<'_>,
    ledger: &EniLedger,
    actual: &Description,
) -> Result<Option<Vec<IpAddr>>> {
    let unknown = {
        let entries = ledger.open()?;
        let (is_v4, is_v6) = (
            asked(&entries, false)?.is_some(),
            asked(&entries, true)?.is_some(),
        );
        let files = entries.prefix_files()?;
        let is_asked = |prefix: &&Cidr| if prefix.is_ipv4() { is_v4 } else { is_v6 };
        let asked = actual.prefixes.iter().filter(is_asked);
        asked
            .filter(|prefix| !files.contains(*prefix))
            .copied()
            .collect::<Vec<_>>()
    };
    match unknown.is_empty() {
        true => Ok(Some(Vec::new())),
        false => Ok(occupied(node.ledger, &unknown)),
    }
}

/// Writes down the prefixes that EC2 has chosen in an answer that was lost, as far as a description
/// and the metadata show them. Returns those that are not decided yet.
///
/// # Errors
/// Code 5 or 6 naming a file of the ledger.
pub(crate) fn note_unheard(
    entries: &Entries,
    actual: &Description,
    beside: &Beside,
) -> Result<Vec<Cidr>> {
    let mut undecided = Vec::new();
    for ipv6 in [false, true] {
        if let Some(asked) = asked(entries, ipv6)? {
            undecided.extend(note_family(entries, actual, beside, (ipv6, asked))?);
        }
    }
    Ok(undecided)
}

fn note_family(
    entries: &Entries,
    actual: &Description,
    beside: &Beside,
    (ipv6, asked): (bool, Asked),
) -> Result<Vec<Cidr>> {
    let known = Known::of(entries)?;
    let is_over = asked.is_over(beside.at);
    let come = |shown: &[Cidr]| -> Vec<Cidr> {
        let of_family = shown.iter().filter(|prefix| prefix.is_ipv4() != ipv6);
        let come = of_family.filter(|p| !asked.before.contains(p) && !known.is_gone(**p));
        come.copied().collect()
    };
    let described = come(&actual.prefixes);
    // A process that was killed may have written some down before it could end its request.
    let is_new = |prefix: &Cidr| !known.is_there(*prefix);
    let written = described.iter().filter(|prefix| !is_new(prefix)).count();
    if written >= asked.count {
        entries.end_asking(ipv6)?;
        return Ok(Vec::new());
    }
    let verdict = lost::decide(Evidence {
        described,
        listed: come(&beside.prefixes),
        doubtful: Vec::new(),
        count: asked.count,
        is_over,
    });
    let (mut chosen, mut undecided) = match verdict {
        Verdict::Chosen { these, undecided } => (these, undecided),
        Verdict::Mixed(mut prefixes) => {
            prefixes.retain(is_new);
            say!("{}", mixed(&actual.id, &prefixes));
            (Vec::new(), Vec::new())
        }
    };
    chosen.retain(is_new);
    undecided.retain(is_new);
    for prefix in &chosen {
        say!(
            "EC2 has chosen {prefix} for {}, and its answer was lost",
            actual.id
        );
    }
    let file = asked.ranges_file.as_deref();
    note(entries, &chosen, file, beside.occupied.as_deref())?;
    if is_over || written + chosen.len() >= asked.count {
        entries.end_asking(ipv6)?;
    }
    Ok(undecided)
}

/// The prefixes that the ledger knows.
struct Known {
    prefixes: Vec<Prefix>,
    files: HashSet<Cidr>,
}

impl Known {
    fn of(entries: &Entries) -> Result<Self> {
        Ok(Self {
            prefixes: entries.prefixes()?,
            files: entries.prefix_files()?,
        })
    }

    fn entry(&self, prefix: Cidr) -> Option<&Entry> {
        let mut known = self.prefixes.iter();
        let known = known.find(|known| known.prefix == prefix);
        known.map(|known| &known.entry)
    }

    /// Whether it is on the ENI, by the ledger.
    fn is_there(&self, prefix: Cidr) -> bool {
        self.entry(prefix).is_some_and(Entry::is_on_eni)
    }

    /// Whether a description may show it only because it is old, or nothing can be written down about
    /// it.
    fn is_gone(&self, prefix: Cidr) -> bool {
        match self.entry(prefix) {
            Some(entry) => entry.state == State::Removed && entry.was_removed_lately(now()),
            None => self.files.contains(&prefix),
        }
    }
}
