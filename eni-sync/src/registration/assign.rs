//! Has AWS assign addresses to an ENI, normally by one call for all of them. If AWS refuses the
//! call, this module finds out, by descriptions, which address is the cause, and whether it may
//! be taken from the ENI that has it.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Instant;

use common::address::Cidr;
use common::attach::inventory::Eni;
use common::error::{Error, ErrorCode, Result};
use common::say;

use crate::ledger::Takeover;
use crate::registration::looks::Sighting;
use crate::registration::node::Node;
use crate::registration::release;
use crate::vpc::ec2::{Description, Ec2, Family};
use crate::vpc::failure::{Failure, Kind};

/// An address that an attachment needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claimed {
    pub(crate) address: IpAddr,
    pub(crate) takeover: Takeover,
    /// Whether a description may show it on the ENI although EC2 has removed it.
    pub(crate) was_removed_lately: bool,
}

impl Claimed {
    /// Whether the address is certainly on the ENI, given whether a description shows it there.
    pub(crate) fn is_proven_by(&self, is_shown: bool) -> bool {
        is_shown && !self.was_removed_lately
    }
}

/// How many slots of a family an ENI uses and has, and how many addresses have been removed to
/// make room.
pub(crate) struct Room {
    pub(crate) used: usize,
    pub(crate) limit: usize,
    pub(crate) made: usize,
}

impl Room {
    /// How many more addresses it can have.
    pub(crate) fn free(&self) -> usize {
        self.limit.saturating_sub(self.used) + self.made
    }
}

/// The result for each address.
pub(crate) type Outcomes = Vec<(IpAddr, Result<()>)>;

/// Assigns addresses to one ENI.
pub(crate) struct Assigner<'a> {
    pub(crate) node: &'a Node<'a>,
    pub(crate) eni: &'a Eni,
    ec2: &'a Ec2,
    /// The ENIs of the subnet, described when they are first needed.
    neighbours: OnceCell<Vec<Description>>,
}

impl<'a> Assigner<'a> {
    /// An assigner for `eni`.
    ///
    /// # Errors
    /// Those of [`Aws::ec2`](crate::vpc::clients::Aws::ec2).
    pub(crate) fn new(node: &'a Node<'a>, eni: &'a Eni) -> Result<Self> {
        Ok(Self {
            node,
            eni,
            ec2: node.aws.ec2(&node.inventory.region)?,
            neighbours: OnceCell::new(),
        })
    }

    /// Assigns all of `claimed`, and returns for each whether it is on the ENI now. An address
    /// that needs a second look is missing in the result. A bad address does not prevent the
    /// others.
    pub(crate) fn assign(&self, claimed: &[Claimed]) -> Outcomes {
        let families = Family::ALL.map(|family| {
            let of_family = claimed.iter().filter(|c| Family::of(c.address) == family);
            of_family.copied().collect::<Vec<_>>()
        });
        families
            .iter()
            .flat_map(|some| self.assign_batch(some))
            .collect()
    }

    fn assign_batch(&self, batch: &[Claimed]) -> Outcomes {
        let Some(first) = batch.first() else {
            return Outcomes::new();
        };
        match self.ec2().assign(&self.eni.id, &addresses(batch)) {
            Ok(()) => {
                let (subnet, subnets) = (&self.eni.subnet_id, &self.node.shared.subnets);
                subnets.note_assigned(subnet, Family::of(first.address), batch.len());
                let outcomes = batch.iter().map(|claimed| (claimed.address, Ok(())));
                outcomes.collect()
            }
            Err(failure) if failure.concerns_every_call() => self.refuse_all(batch, &failure),
            Err(failure) => match self.handle_refusal(batch, &failure) {
                Ok(outcomes) => outcomes,
                // The failed description does not explain more than the first answer.
                Err(_) => self.refuse_all(batch, &failure),
            },
        }
    }

    /// Handles a batch that AWS has refused as a whole.
    fn handle_refusal(&self, batch: &[Claimed], failure: &Failure) -> Result<Outcomes, Failure> {
        let ec2 = self.ec2();
        let own = ec2.eni(&self.eni.id)?;
        let described = |claimed: &Claimed| {
            let own = own.as_ref();
            own.is_some_and(|own| claimed.is_proven_by(own.secondary.contains(&claimed.address)))
        };
        let (shown, mut missing): (Vec<_>, Vec<_>) = batch.iter().copied().partition(described);
        let listed = if shown.is_empty() {
            None
        } else {
            self.listed_by_metadata()
        };
        let is_listed = |claimed: &Claimed| is_in(listed.as_ref(), claimed);
        let (mut shown, doubtful): (Vec<_>, Vec<_>) = shown.into_iter().partition(is_listed);
        let is_answered = !matches!(failure.kind, Kind::Unanswered | Kind::Missing);
        // A later description may show who has it.
        let is_left = |claimed: &Claimed| !is_answered || self.is_second(claimed);
        let doubtful = doubtful.into_iter().filter(is_left);
        let mut outcomes: Outcomes = doubtful.map(|claimed| self.doubtful(claimed)).collect();
        if !is_answered {
            if listed.is_none() {
                missing.append(&mut shown);
            }
            outcomes.extend(on_eni(&shown));
            outcomes.extend(self.refuse_all(&missing, failure));
            return Ok(outcomes);
        }
        outcomes.extend(on_eni(&self.proven(shown, batch)));
        let owners = ec2.owners(&self.eni.vpc_id, &addresses(&missing))?;
        let owner_of = |claimed: &Claimed| {
            owners
                .iter()
                .find(|eni| eni.has(claimed.address) && eni.id != self.eni.id)
        };
        let (mut free, mut foreign) = (Vec::new(), Vec::new());
        for claimed in missing {
            match owner_of(&claimed) {
                Some(owner) => foreign.push((claimed, owner)),
                None => free.push(claimed),
            }
        }
        outcomes.extend(self.take_over(&foreign));
        if failure.kind == Kind::Invalid && free.len() == batch.len() {
            let (in_prefixes, rest) = self.find_in_prefixes(free)?;
            outcomes.extend(in_prefixes);
            free = rest;
        }
        let rest = match failure.kind {
            Kind::SlotsExhausted => self.assign_what_fits(&free, own.as_ref(), failure),
            _ if free.len() < batch.len() => self.assign_batch(&free),
            _ => self.divide(&free, failure),
        };
        outcomes.extend(rest);
        Ok(outcomes)
    }

    /// What the metadata show on the ENI, which a description may be older than: it may show an
    /// address that another ENI has by now. `None` when they do not answer.
    fn listed_by_metadata(&self) -> Option<HashSet<IpAddr>> {
        let imds = self.node.aws.imds_soon();
        imds.and_then(|imds| imds.addresses(&self.eni.mac)).ok()
    }

    /// Whether the metadata show a prefix on the ENI.
    fn is_prefix_listed(&self, prefix: Cidr) -> bool {
        let imds = self.node.aws.imds_soon();
        let listed = imds.and_then(|imds| imds.prefixes(&self.eni.mac));
        listed.is_ok_and(|listed| listed.contains(&prefix))
    }

    /// The addresses of a refused batch that are certainly on the ENI, of those that a
    /// description shows there. EC2 may refuse addresses that are there, or accept them when
    /// nothing else is requested; but the description may be older than the removal of one of
    /// them. The others need a second look.
    fn proven(&self, shown: Vec<Claimed>, batch: &[Claimed]) -> Vec<Claimed> {
        let is_new = shown.len() < batch.len();
        let accepted = || self.ec2().assign(&self.eni.id, &addresses(&shown)).is_ok();
        if shown.is_empty() || is_new && accepted() {
            return shown;
        }
        let is_second = |claimed: &Claimed| self.is_second(claimed);
        shown.into_iter().filter(is_second).collect()
    }

    fn is_second(&self, claimed: &Claimed) -> bool {
        let seen = Sighting::There(self.eni.id.clone(), claimed.address);
        let looks = &self.node.shared.looks;
        looks.is_second(seen, &[claimed.address], Instant::now())
    }

    /// Separates the addresses that are in a prefix of some ENI. EC2 has no filter for
    /// prefixes, so the whole subnet is described, if nothing else explains a refusal. That this
    /// ENI has the prefix is believed only if the metadata show it as well.
    fn find_in_prefixes(&self, batch: Vec<Claimed>) -> Result<(Outcomes, Vec<Claimed>), Failure> {
        let enis = match self.neighbours.get() {
            Some(enis) => enis,
            None => {
                let enis = self.ec2().enis_of_subnet(&self.eni.subnet_id)?;
                self.neighbours.get_or_init(|| enis)
            }
        };
        let mut found = Outcomes::new();
        let mut rest = Vec::new();
        for claimed in batch {
            let address = claimed.address;
            let prefixes = enis
                .iter()
                .filter_map(|eni| Some((eni, eni.prefix_of(address)?)));
            let (own, others): (Vec<_>, Vec<_>) =
                prefixes.partition(|(eni, _)| eni.id == self.eni.id);
            match (others.first(), own.first()) {
                (Some((eni, prefix)), _) => {
                    found.push((address, Err(in_prefix(address, eni, *prefix))));
                }
                // The VPC delivers it here already.
                (None, Some((_, prefix))) if self.is_prefix_listed(*prefix) => {
                    found.push((address, Ok(())));
                }
                (None, Some(_)) => found.push(self.doubtful(claimed)),
                (None, None) => rest.push(claimed),
            }
        }
        Ok((found, rest))
    }

    /// Finds the refused addresses of `batch` by halving it, when no description shows the
    /// reason.
    fn divide(&self, batch: &[Claimed], failure: &Failure) -> Outcomes {
        if let [claimed] = batch {
            return self.ask_again(*claimed, failure);
        }
        let (left, right) = batch.split_at(batch.len() / 2);
        let mut outcomes = self.assign_batch(left);
        outcomes.extend(self.assign_batch(right));
        outcomes
    }

    /// Requests an address once more that was refused although no ENI has it: it may have been
    /// released after the refusal, and another ENI may be taking it.
    fn ask_again(&self, claimed: Claimed, failure: &Failure) -> Outcomes {
        let address = claimed.address;
        if failure.kind != Kind::Invalid {
            return self.refuse_all(&[claimed], failure);
        }
        let Err(failure) = self.ec2().assign(&self.eni.id, &[address]) else {
            return vec![(address, Ok(()))];
        };
        let owners = self.ec2().owners(&self.eni.vpc_id, &[address]);
        let owners = owners.unwrap_or_default();
        match owners.iter().find(|eni| eni.has(address)) {
            Some(own) if own.id == self.eni.id && claimed.is_proven_by(true) => {
                if is_in(self.listed_by_metadata().as_ref(), &claimed) {
                    vec![(address, Ok(()))]
                } else {
                    vec![self.doubtful(claimed)]
                }
            }
            Some(owner) if owner.id != self.eni.id => self.take_over(&[(claimed, owner)]),
            _ => self.refuse_all(&[claimed], &failure),
        }
    }

    /// Handles a full ENI: addresses in their cool-down are removed to make room, the oldest
    /// first. Addresses that do not fit even then are refused.
    fn assign_what_fits(
        &self,
        batch: &[Claimed],
        own: Option<&Description>,
        failure: &Failure,
    ) -> Outcomes {
        let Some(family) = batch.first().map(|claimed| Family::of(claimed.address)) else {
            return Outcomes::new();
        };
        let room = self.room(family, own, batch.len());
        let (fitting, rest) = batch.split_at(batch.len().min(room.free()));
        let mut outcomes = match fitting.len() == batch.len() && room.made == 0 {
            // By our count there is room, but AWS' count decides.
            true => self.divide(fitting, failure),
            false => self.assign_batch(fitting),
        };
        let assigned = outcomes.iter().filter(|(_, outcome)| outcome.is_ok());
        let used = (room.used + assigned.count()).saturating_sub(room.made);
        let room = Room { used, ..room };
        let full = |claimed: &Claimed| self.full(claimed.address, &room, &failure.answer);
        outcomes.extend(
            rest.iter()
                .map(|claimed| (claimed.address, Err(full(claimed)))),
        );
        outcomes
    }

    /// The addresses of one family that the ENI has room for, beside `others` that are about to
    /// be assigned. Addresses in their cool-down are removed to make room; the rest is refused
    /// before any change is made for it.
    pub(crate) fn fitting(&self, batch: Vec<Claimed>, others: usize) -> (Vec<Claimed>, Outcomes) {
        let Some(family) = batch.first().map(|claimed| Family::of(claimed.address)) else {
            return (batch, Outcomes::new());
        };
        // Without a known limit, EC2 decides.
        if family.limit(self.eni) == 0 {
            return (batch, Outcomes::new());
        }
        let own = match self.ec2().eni(&self.eni.id) {
            Ok(own) => own,
            Err(failure) => {
                let refused = self.refuse_all(&batch, &failure);
                return (Vec::new(), refused);
            }
        };
        let room = self.room(family, own.as_ref(), batch.len() + others);
        let mut fitting = batch;
        let rest = fitting.split_off(fitting.len().min(room.free().saturating_sub(others)));
        let details = "nothing was taken from where it is";
        let full = rest.iter().map(|claimed| {
            let error = self.full(claimed.address, &room, details);
            (claimed.address, Err(error))
        });
        (fitting, full.collect())
    }

    /// The slots of a family, after addresses in their cool-down have been removed, the oldest
    /// first, if there are not enough for `wanted`.
    pub(crate) fn room(&self, family: Family, own: Option<&Description>, wanted: usize) -> Room {
        let used = own.map_or(0, |own| own.used(family));
        let limit = family.limit(self.eni);
        let missing = wanted.saturating_sub(limit.saturating_sub(used));
        let made = self.make_room(family, missing);
        Room { used, limit, made }
    }

    /// Removes up to `wanted` addresses whose attachments have ended, although their cool-down
    /// is not over. Returns how many are gone.
    fn make_room(&self, family: Family, wanted: usize) -> usize {
        if wanted == 0 {
            return 0;
        }
        let ledger = self.node.ledger.of_attached(self.eni);
        let removed = ledger.and_then(|l| release::release_oldest(self.node, &l, family, wanted));
        removed.unwrap_or_else(|error| {
            say!("making room on {}: {error}", self.eni.id);
            0
        })
    }

    fn full(&self, address: IpAddr, room: &Room, details: &str) -> Error {
        let Room { used, limit, .. } = room;
        let (eni, kind) = (&self.eni.id, &self.node.inventory.instance_type);
        let msg =
            format!("{eni} has no room for {address}: {used} of {limit} addresses used ({kind})");
        Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
    }

    /// The outcome for an address that EC2 has refused, and that a description shows on the ENI
    /// although the metadata do not.
    fn doubtful(&self, claimed: Claimed) -> (IpAddr, Result<()>) {
        let Claimed { address, .. } = claimed;
        let msg = format!("EC2 does not assign {address} to {} now", self.eni.id);
        let details = "its description shows the address there, and the metadata do not: one of \
                       them is old";
        let error = Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details);
        (address, Err(error))
    }

    pub(crate) fn refuse_all(&self, batch: &[Claimed], failure: &Failure) -> Outcomes {
        let refuse = |claimed: &Claimed| self.refused(claimed.address, failure);
        batch
            .iter()
            .map(|claimed| (claimed.address, Err(refuse(claimed))))
            .collect()
    }

    pub(crate) fn refused(&self, address: IpAddr, failure: &Failure) -> Error {
        failure.error(&format!("assign {address} to {}", self.eni.id))
    }

    pub(crate) fn ec2(&self) -> &Ec2 {
        self.ec2
    }
}

/// The error for an address that belongs to a prefix of another ENI.
fn in_prefix(address: IpAddr, eni: &Description, prefix: Cidr) -> Error {
    let holder = match &eni.instance_id {
        Some(instance) => format!("{} of {instance}", eni.id),
        None => format!("{}, which is attached to nothing", eni.id),
    };
    let msg = format!("{address} is in the prefix {prefix} of {holder}");
    let details = "single addresses of a prefix cannot be assigned; pods need other addresses";
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
}

/// Whether the metadata show the address, if they have answered.
fn is_in(listed: Option<&HashSet<IpAddr>>, claimed: &Claimed) -> bool {
    listed.is_none_or(|listed| listed.contains(&claimed.address))
}

fn on_eni(done: &[Claimed]) -> Outcomes {
    done.iter()
        .map(|claimed| (claimed.address, Ok(())))
        .collect()
}

/// The addresses that are claimed.
pub(crate) fn addresses(batch: &[Claimed]) -> Vec<IpAddr> {
    batch.iter().map(|claimed| claimed.address).collect()
}
