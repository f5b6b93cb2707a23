//! Claims addresses for an attachment in the ledger. Before that, one question is asked about each
//! of them, whatever state it is in: may it be given to this attachment now? The runtime may have
//! ended an attachment whose pod lives on with the address, and a pod, or the node itself, may
//! have one that nobody has claimed.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use common::attach::inventory::Eni;
use common::error::{Error, ErrorCode, Result};
use common::kernel::netns::Holders;

use crate::ledger::{
    EniLedger, Entries, Entry, Event, Life, Owner, Refusal, State, Timestamp, now,
};
use crate::registration::assign::Claimed;
use crate::registration::attached::Whole;
use crate::registration::in_use::{self, Living};
use crate::registration::node::Node;
use crate::registration::request::Request;
use crate::registration::rules::{self, Claim};
use crate::registration::settled::{is_reserved_for, reserved_for_another};

/// How often the question is asked again because the ledger has changed meanwhile.
const ATTEMPTS: usize = 5;
/// The pauses after a look that has not shown whether anybody has an address: the first one, and
/// the longest. Each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_millis(800);
/// How long, in seconds, a claim that is in doubt is looked at again before it is refused.
const PASSING: Timestamp = 2;

/// An address that an attachment wants, and what the ledger has of it.
#[derive(Clone, PartialEq, Eq)]
struct Wanted {
    address: IpAddr,
    entry: Option<Entry>,
}

/// Claims the wanted addresses in the ledger, all or none, and returns those that should be on the
/// ENI already.
///
/// # Errors
/// Code 7 when the ledger cannot hold the attachment, 11 naming an address that another one, a pod
/// or the node has, or may have; 5, 6 or 8 naming what cannot be read.
pub(crate) fn claim(
    node: &Node<'_>,
    eni: &Eni,
    ledger: &EniLedger,
    (wanted, request): (&[IpAddr], &Request),
) -> Result<Vec<IpAddr>> {
    request.owner.require_short()?;
    let mut answered: Vec<Wanted> = Vec::new();
    for _ in 0..ATTEMPTS {
        let doubtful = {
            let entries = ledger.open()?;
            let claims = decide(&entries, ledger.id(), (wanted, request))?;
            let wanted = claims.iter().map(|(wanted, _)| wanted);
            let open = wanted.filter(|wanted| {
                let entry = wanted.entry.as_ref();
                let is_doubtful = entry.is_some_and(|e| needs_question(e, &request.owner));
                is_doubtful && !answered.contains(wanted)
            });
            let open: Vec<Wanted> = open.cloned().collect();
            if open.is_empty() {
                return write(&entries, claims, request);
            }
            open
        };
        // The ledger is not locked here: pods must not wait while all namespaces are read.
        require_unused(node, eni, &doubtful, &request.owner)?;
        answered.extend(doubtful);
    }
    let msg = format!("the ledger of {} changed while it was read", ledger.id());
    Err(Error::new(ErrorCode::TRY_AGAIN, msg))
}

/// What the claim of each address is, by the ledger alone.
///
/// # Errors
/// Code 11 naming an address that another existing attachment has.
fn decide(
    entries: &Entries,
    eni: &str,
    (wanted, request): (&[IpAddr], &Request),
) -> Result<Vec<(Wanted, Claim)>> {
    let (holders, mut claims) = (Holders::default(), Vec::new());
    for address in wanted {
        let entry = entries.get(*address)?;
        let other_lives = entry
            .as_ref()
            .is_some_and(|entry| entry.is_in_use() && entry.may_have_living_owner(&holders));
        let by = (&request.owner, request.takeover);
        let claim = rules::claim(entry.as_ref(), by, other_lives, now());
        if claim == Claim::Taken {
            return Err(taken(*address, eni, entry.as_ref()));
        }
        let address = *address;
        claims.push((Wanted { address, entry }, claim));
    }
    Ok(claims)
}

/// Whether an address may be used although no existing attachment has it by the ledger. What
/// is in a pool was examined when the pool got it, and host-local gives it.
pub(crate) fn may_be_used(entry: &Entry) -> bool {
    match entry.state {
        State::Held | State::Claiming { .. } => true,
        State::Releasing { .. } | State::Withdrawn { .. } | State::Adopted => true,
        State::Pooled | State::Removed => false,
    }
}

/// Whether it must be found out if anybody else has an address. For one that is not on the ENI by
/// the ledger, [`refuse_used`] does.
fn needs_question(entry: &Entry, owner: &Owner) -> bool {
    let is_own = entry.is_owned_by(owner) || entry.is_found_for(owner);
    let is_of_pool = entry.state == State::Pooled;
    let is_open = may_be_used(entry) && !(is_own && entry.is_in_use())
        || is_of_pool && !is_reserved_for(owner, entry.address);
    can_be_asked(owner) && is_open
}

/// Whether it is known in which namespace the owner itself may have its address already. host-local
/// has given it to the others.
fn can_be_asked(owner: &Owner) -> bool {
    matches!(owner.life, Life::Namespace { .. })
}

/// Refuses the claims of addresses that the ledger did not know and that somebody else has, or of
/// which that cannot be found out: another program may have put them on the ENI, or a pod of another
/// network has them although EC2 does not know. Returns the others, and after what pause those are
/// to be looked at that are left out, because it is not known yet: the process in turn does not wait
/// for that. The namespaces are read once for all.
///
/// # Errors
/// Code 5 naming a file of the ledger.
pub(crate) fn refuse_used(
    node: &Node<'_>,
    eni: &Eni,
    ledger: &EniLedger,
    mut claims: Vec<Claimed>,
) -> Result<(Vec<Claimed>, Option<Duration>)> {
    let mut unknown = Vec::new();
    {
        let entries = ledger.open()?;
        for claimed in &claims {
            unknown.extend(entries.get(claimed.address)?);
        }
    }
    let is_asked = |entry: &Entry| entry.owner.as_ref().is_some_and(can_be_asked);
    unknown.retain(|entry| entry.is_new() && is_asked(entry));
    if unknown.is_empty() {
        return Ok((claims, None));
    }
    let mut pause = None;
    for (entry, doubt) in doubts(node, eni, unknown) {
        claims.retain(|claimed| claimed.address != entry.address);
        match doubt {
            Doubt::Refused(error, was_there) => refuse(ledger, (entry, was_there), &error)?,
            Doubt::Passing => pause = Some(FIRST_PAUSE),
        }
    }
    Ok((claims, pause))
}

/// Why an address is not given to its claimant now.
enum Doubt {
    /// Somebody has it, or that cannot be found out; and whether the ENI may have had it before it
    /// was claimed.
    Refused(Error, bool),
    /// Whoever looks into a namespace, or forks, keeps it for a moment after its end.
    Passing,
}

/// Those of the claims that are in doubt.
fn doubts(node: &Node<'_>, eni: &Eni, claims: Vec<Entry>) -> Vec<(Entry, Doubt)> {
    let asked: HashSet<IpAddr> = claims.iter().map(|entry| entry.address).collect();
    let looked = in_use::look_if_permitted(node.ledger, |address| asked.contains(&address))
        .and_then(|living| Ok((living, WithEni::new(node, eni)?)));
    let (living, with_eni) = match looked {
        Ok(looked) => looked,
        Err(error) => {
            // What cannot be read does not say that somebody else has it.
            let refused = |entry| (entry, Doubt::Refused(error.clone(), false));
            return claims.into_iter().map(refused).collect();
        }
    };
    let doubt = |entry: Entry| {
        let owner = entry.owner.as_ref()?;
        if let Some(whose) = living.whose_beside(entry.address, owner) {
            let error = not_yet(entry.address, &eni.id, whose);
            let was_there = with_eni.may_have(entry.address);
            return Some((entry, Doubt::Refused(error, was_there)));
        }
        if let Some(denied) = living.denied()
            && with_eni.may_have(entry.address)
        {
            return Some((entry, Doubt::Refused(denied.clone(), false)));
        }
        let why = with_eni.reason_to_refuse(entry.address, owner)?;
        let doubt = if entry.is_of_the_last(PASSING, now()) {
            Doubt::Passing
        } else {
            Doubt::Refused(not_yet(entry.address, &eni.id, why), true)
        };
        Some((entry, doubt))
    };
    claims.into_iter().filter_map(doubt).collect()
}

/// What was on the ENI before it was claimed, and who may have got that with the whole ENI.
struct WithEni<'a> {
    node: &'a Node<'a>,
    eni: &'a Eni,
    whole: Whole,
    /// The addresses of the ENI by the metadata, asked for when they are first needed; `None`
    /// without an answer: then each of them may have been on the ENI before.
    shown: OnceCell<Option<HashSet<IpAddr>>>,
}

impl<'a> WithEni<'a> {
    fn new(node: &'a Node<'a>, eni: &'a Eni) -> Result<Self> {
        let (whole, shown) = (Whole::of(&eni.mac)?, OnceCell::new());
        Ok(Self {
            node,
            eni,
            whole,
            shown,
        })
    }

    fn reason_to_refuse(&self, address: IpAddr, owner: &Owner) -> Option<String> {
        let why = self.whole.reason_to_refuse(None, owner)?;
        self.may_have(address).then_some(why)
    }

    /// Whether the address may have been on the ENI before it was claimed.
    fn may_have(&self, address: IpAddr) -> bool {
        let shown = self.shown.get_or_init(|| {
            let imds = self.node.aws.imds_soon().ok()?;
            imds.addresses(&self.eni.mac).ok()
        });
        shown.as_ref().is_none_or(|shown| shown.contains(&address))
    }
}

fn refuse(ledger: &EniLedger, (entry, was_there): (Entry, bool), error: &Error) -> Result<()> {
    let entries = ledger.open()?;
    if entries.get(entry.address)?.as_ref() != Some(&entry) {
        return Ok(());
    }
    let entry = if was_there { entry.found() } else { entry };
    entries.note(entry, &Event::Refused(Refusal::of(error)))
}

fn not_yet(address: IpAddr, eni: &str, why: String) -> Error {
    let msg = format!("{address} on {eni} cannot be given to another pod yet");
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(why)
}

/// Checks that nobody else has addresses that need no claim: those of the ENI itself, which the
/// attachment has with the whole ENI.
///
/// # Errors
/// Code 7 naming one that the node has on an interface, 11 one that a pod has.
pub(crate) fn require_own(
    node: &Node<'_>,
    eni: &Eni,
    addresses: &[IpAddr],
    owner: &Owner,
) -> Result<()> {
    if addresses.is_empty() {
        return Ok(());
    }
    let living = in_use::look_if_permitted(node.ledger, |address| addresses.contains(&address))?;
    for address in addresses {
        if let Some(interface) = living.on_node(*address) {
            let msg = format!("{address} is an address of {} itself", eni.id);
            let details = format!(
                "interface {interface:?} of the node has it: only a pod that has the whole ENI \
                 gets its own addresses; pods that share an ENI get its secondary addresses"
            );
            return Err(Error::config(msg).with_details(details));
        }
        if let Some(whose) = living.whose_beside(*address, owner) {
            return Err(not_yet(*address, &eni.id, whose));
        }
    }
    Ok(())
}

/// Checks that nobody else has the addresses.
///
/// # Errors
/// Code 11 naming the first one that somebody has, or may have; 5 or 8 naming what cannot be read.
fn require_unused(node: &Node<'_>, eni: &Eni, wanted: &[Wanted], owner: &Owner) -> Result<()> {
    let mut pause = FIRST_PAUSE;
    loop {
        let is_wanted = |address| wanted.iter().any(|wanted| wanted.address == address);
        let living = in_use::look_beside(owner, node.ledger, is_wanted)?;
        let used = used(&eni.mac, wanted, owner, &living)?;
        let Some((address, why)) = used else {
            return Ok(());
        };
        // Whoever looks into a namespace, or forks, keeps it for a moment after its end.
        let is_time = pause <= LAST_PAUSE && pause < node.aws.deadline().left();
        if living.has(address) || !is_time {
            return Err(not_yet(address, &eni.id, why));
        }
        thread::sleep(pause);
        pause *= 2;
    }
}

/// The first of the addresses that somebody else has, or may have, and why.
fn used(
    mac: &str,
    wanted: &[Wanted],
    owner: &Owner,
    living: &Living,
) -> Result<Option<(IpAddr, String)>> {
    let whole = Whole::of(mac)?;
    for Wanted { address, entry } in wanted {
        let why = match entry {
            Some(entry) if entry.is_owned_by(owner) => living.reason_to_keep(*address, Some(owner)),
            Some(entry) if entry.owner.is_some() => living.reason_to_keep_entry(entry)?,
            // A file that a runtime has left in /run/netns must not keep the node from starting pods.
            Some(entry) if entry.state == State::Pooled => match living.whose(*address) {
                None => reserved_for_another(owner, *address)?
                    .map(|file| format!("host-local has reserved it: {file:?}")),
                whose => whose,
            },
            _ => living.whose(*address),
        };
        if let Some(why) = why.or_else(|| whole.reason_to_refuse(entry.as_ref(), owner)) {
            return Ok(Some((*address, why)));
        }
    }
    Ok(None)
}

/// Writes the claims, and returns the addresses that should be on the ENI already.
fn write(
    entries: &Entries,
    claims: Vec<(Wanted, Claim)>,
    request: &Request,
) -> Result<Vec<IpAddr>> {
    let claimed = Event::Claimed {
        takeover: request.takeover,
        best_effort: request.best_effort,
    };
    let mut reusable = Vec::new();
    for (Wanted { address, entry }, claim) in claims {
        if claim == Claim::Reuse {
            reusable.push(address);
        }
        let event = match claim {
            Claim::Take => &Event::Taken,
            Claim::Reuse | Claim::Ask | Claim::Taken => &claimed,
        };
        let before = entry.clone();
        if let Some(entry) = Entry::claimed(address, entry, event, request.owner.clone()) {
            entries.change(before.as_ref(), &entry, event)?;
        }
    }
    Ok(reusable)
}

fn taken(address: IpAddr, eni: &str, entry: Option<&Entry>) -> Error {
    let msg = format!("{address} on {eni} is in use by another attachment of this node");
    let owner = entry.and_then(|entry| entry.owner.as_ref());
    let details = owner.map(Owner::to_string).unwrap_or_default();
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
}
