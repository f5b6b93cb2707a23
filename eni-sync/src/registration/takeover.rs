//! Takes addresses over from other ENIs, where that is allowed. An address of a dead ENI is
//! first removed from that ENI and then assigned like any other: EC2 refuses the removal when
//! the address has left the ENI, and the assignment when another ENI has got the address, so of
//! several nodes one succeeds. An address is taken from a running instance only if the
//! network's configuration says that it floats.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use common::attach::inventory::NO_MANAGE_TAG;
use common::error::{Error, ErrorCode, Result};
use common::say;
use tracing::info;

use crate::deadline::Deadline;
use crate::ledger::{State, Takeover};
use crate::random;
use crate::registration::assign::{Assigner, Claimed, Outcomes, addresses};
use crate::registration::looks::Sighting;
use crate::registration::release;
use crate::vpc::ec2::{Description, Family, OwnEni};
use crate::vpc::eni;
use crate::vpc::failure::{Failure, Kind};

/// How long a takeover is tried, including the time that AWS needs to move an address.
const DEADLINE: Duration = Duration::from_secs(20);
/// The first pause between two looks; every further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// States of an instance that never runs again. Source: Amazon EC2 User Guide,
/// "Amazon EC2 instance state changes".
const DEAD: [&str; 2] = ["shutting-down", "terminated"];
/// How long this process waits for its turn on another ENI of this node.
const OTHER_TURN: Duration = Duration::from_secs(5);

/// The instance that an ENI is attached to, as far as it is known.
enum Holder {
    /// The ENI is dead by this one look: attached to nothing, or to an instance that never runs
    /// again.
    Nobody,
    /// It is another ENI of this node.
    ThisNode,
    /// Its instance has this state and may use it.
    Other(String),
}

/// Claimed addresses, and the ENI that has them.
struct Group {
    owner: Description,
    claims: Vec<Claimed>,
}

/// An address that was removed from a dead ENI.
struct Freed {
    claimed: Claimed,
    former: String,
}

/// The reason why addresses stay on the other ENI.
enum Kept {
    Refused(Failure),
    Alive(Box<Description>, String),
}

impl Assigner<'_> {
    /// Takes addresses from the ENIs that have them, where that is allowed, and returns for
    /// each whether it is on this ENI now. An address whose ENI needs a second look is missing
    /// in the result. Refusals have code 11 and name the address, the ENI and its instance; a
    /// primary address, which can never move, has code 7.
    pub(crate) fn take_over(&self, claims: &[(Claimed, &Description)]) -> Outcomes {
        let mut outcomes = Outcomes::new();
        let mut groups: BTreeMap<&str, Group> = BTreeMap::new();
        for (claimed, owner) in claims {
            match require_movable(claimed.address, owner) {
                Err(error) => outcomes.push((claimed.address, Err(error))),
                Ok(()) => {
                    let group = groups.entry(&owner.id).or_insert_with(|| Group {
                        owner: (*owner).clone(),
                        claims: Vec::new(),
                    });
                    group.claims.push(*claimed);
                }
            }
        }
        let mut dead = Vec::new();
        for group in groups.into_values() {
            match self.holder(&group.owner) {
                Err(failure) => outcomes.extend(self.refuse_all(&group.claims, &failure)),
                Ok(holder) => {
                    let id = group.owner.id.clone();
                    let seen = match group.owner.instance_id {
                        Some(_) => Sighting::Ended(id),
                        None => Sighting::Detached(id),
                    };
                    let is_dead = matches!(holder, Holder::Nobody);
                    let looks = &self.node.shared.looks;
                    looks.forget_dead(&group.owner.id, is_dead.then_some(&seen));
                    let (kept, left) = self.decide(group, &holder);
                    outcomes.extend(kept);
                    dead.extend(left.filter(|left| {
                        let claims = addresses(&left.claims);
                        looks.is_second(seen, &claims, Instant::now())
                    }));
                }
            }
        }
        outcomes.extend(self.take_from_dead(dead));
        outcomes
    }

    fn holder(&self, owner: &Description) -> Result<Holder, Failure> {
        let Some(instance) = &owner.instance_id else {
            return Ok(Holder::Nobody);
        };
        if *instance == self.node.inventory.instance_id {
            return Ok(Holder::ThisNode);
        }
        Ok(match self.ec2().instance_state(instance)? {
            Some(state) if DEAD.contains(&state.as_str()) => Holder::Nobody,
            Some(state) => Holder::Other(state),
            None => Holder::Other("which EC2 does not find".to_owned()),
        })
    }

    /// Decides about each address by the state of the holder: an outcome, or that the address
    /// may be taken from a dead ENI.
    fn decide(&self, group: Group, holder: &Holder) -> (Outcomes, Option<Group>) {
        let mut outcomes = Outcomes::new();
        let mut left = Vec::new();
        let Group { owner, claims } = group;
        for claimed in claims {
            let address = claimed.address;
            let floats = claimed.takeover == Takeover::Always && Family::of(address) == Family::V4;
            let outcome = match (holder, claimed.takeover) {
                (Holder::ThisNode, _) => self.move_within_node(claimed, &owner),
                _ if floats => self.take_floating(claimed, &owner),
                (Holder::Other(state), _) => Err(conflict(address, &owner, state)),
                (_, Takeover::Never) => Err(conflict(address, &owner, "gone")),
                (Holder::Nobody, _) => {
                    left.push(claimed);
                    continue;
                }
            };
            outcomes.push((address, outcome));
        }
        let claims = left;
        let left = (!claims.is_empty()).then_some(Group { owner, claims });
        (outcomes, left)
    }

    /// The reason why nothing may be taken from an ENI that was dead at an earlier look, if
    /// there is one.
    fn alive(&self, owner: &Description) -> Option<Kept> {
        if !eni::is_for_pods(owner) {
            return Some(Kept::Alive(
                Box::new(owner.clone()),
                "no ENI for pods".to_owned(),
            ));
        }
        match self.holder(owner) {
            Err(failure) => Some(Kept::Refused(failure)),
            Ok(Holder::Nobody) => None,
            Ok(Holder::ThisNode) => {
                Some(Kept::Alive(Box::new(owner.clone()), "this node".to_owned()))
            }
            Ok(Holder::Other(state)) => Some(Kept::Alive(Box::new(owner.clone()), state)),
        }
    }

    fn keep(&self, claims: &[Claimed], kept: &Kept) -> Outcomes {
        let error = |address: IpAddr| match kept {
            Kept::Refused(failure) => self.refused(address, failure),
            Kept::Alive(owner, state) => conflict(address, owner, state),
        };
        let kept = claims.iter().map(|claimed| claimed.address);
        kept.map(|address| (address, Err(error(address)))).collect()
    }

    /// Removes addresses from dead ENIs and assigns them all to this one.
    fn take_from_dead(&self, dead: Vec<Group>) -> Outcomes {
        let mut outcomes = Outcomes::new();
        let mut freed: Vec<Freed> = Vec::new();
        for Group { owner, claims } in dead {
            say!("taking {:?} from {}", addresses(&claims), described(&owner));
            for family in Family::ALL {
                let of_family = |claimed: &Claimed| Family::of(claimed.address) == family;
                let some: Vec<Claimed> = claims.iter().copied().filter(of_family).collect();
                let others = freed
                    .iter()
                    .filter(|freed| of_family(&freed.claimed))
                    .count();
                let (some, full) = self.fitting(some, others);
                outcomes.extend(full);
                match self.remove(&owner, &addresses(&some)) {
                    Ok(()) => freed.extend(some.into_iter().map(|claimed| Freed {
                        claimed,
                        former: owner.id.clone(),
                    })),
                    Err(kept) => outcomes.extend(self.keep(&some, &kept)),
                }
            }
        }
        let (v4, v6): (Vec<Freed>, Vec<Freed>) = freed
            .into_iter()
            .partition(|freed| Family::of(freed.claimed.address) == Family::V4);
        outcomes.extend(self.assign_freed(v4));
        outcomes.extend(self.assign_freed(v6));
        outcomes
    }

    /// Removes addresses of one family from a dead ENI, unless they have left it. Before each
    /// further attempt the ENI is looked at again: it may be in use by then, and a request
    /// whose answer was lost may have been carried out.
    fn remove(&self, dead: &Description, addresses: &[IpAddr]) -> Result<(), Kept> {
        let mut owner = dead.clone();
        let mut attempts = Attempts::until(self.node.aws.deadline());
        loop {
            let left = addresses.iter().copied().filter(|a| owner.has(*a));
            let left: Vec<IpAddr> = left.collect();
            let failure = match self.ec2().unassign_once(&owner.id, &left) {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let is_temporary = matches!(
                failure.kind,
                Kind::Invalid | Kind::Missing | Kind::Throttled | Kind::Unanswered
            );
            if !is_temporary || !attempts.pause() {
                return Err(Kept::Refused(failure));
            }
            match self.ec2().eni(&owner.id).map_err(Kept::Refused)? {
                None => return Ok(()),
                Some(found) => owner = found,
            }
            if let Some(kept) = self.alive(&owner) {
                return Err(kept);
            }
        }
    }

    /// Assigns addresses of one family that have just been removed from other ENIs. An address
    /// that another ENI has got meanwhile stays there. EC2 may need some time to see that the
    /// addresses are free.
    fn assign_freed(&self, mut freed: Vec<Freed>) -> Outcomes {
        let mut outcomes = Outcomes::new();
        let former: HashMap<IpAddr, String> = freed
            .iter()
            .map(|freed| (freed.claimed.address, freed.former.clone()))
            .collect();
        let mut attempts = Attempts::until(self.node.aws.deadline());
        while !freed.is_empty() {
            let claims: Vec<Claimed> = freed.iter().map(|freed| freed.claimed).collect();
            let failure = match self.ec2().assign(&self.eni.id, &addresses(&claims)) {
                Ok(()) => {
                    outcomes.extend(claims.iter().map(|claimed| (claimed.address, Ok(()))));
                    break;
                }
                Err(failure) => failure,
            };
            let known = match self.locate(&freed) {
                Ok(known) => known,
                Err(failure) => {
                    outcomes.extend(self.refuse_all(&claims, &failure));
                    return outcomes;
                }
            };
            let is_news = !known.is_empty();
            freed.retain(|freed| !known.iter().any(|(a, _)| *a == freed.claimed.address));
            outcomes.extend(known);
            if !is_news && (failure.kind != Kind::Invalid || !attempts.pause()) {
                outcomes.extend(self.refuse_all(&claims, &failure));
                break;
            }
        }
        for (address, _) in outcomes.iter().filter(|(_, outcome)| outcome.is_ok()) {
            self.note_takeover(*address, former.get(address).map_or("", String::as_str));
        }
        outcomes
    }

    /// Looks where the removed addresses are now: on this ENI, or on an ENI other than the
    /// former one. Addresses that no such ENI has are left out.
    fn locate(&self, freed: &[Freed]) -> Result<Outcomes, Failure> {
        let claims: Vec<Claimed> = freed.iter().map(|freed| freed.claimed).collect();
        let owners = self.ec2().owners(&self.eni.vpc_id, &addresses(&claims))?;
        let known = freed.iter().filter_map(|Freed { claimed, former }| {
            let address = claimed.address;
            let owner = owners.iter().find(|eni| eni.has(address))?;
            match owner.id.as_str() {
                id if id == self.eni.id => claimed.is_proven_by(true).then_some((address, Ok(()))),
                id if id == former => None,
                _ => Some((address, Err(conflict(address, owner, "has taken it first")))),
            }
        });
        Ok(known.collect())
    }

    /// Counts and logs an address that this ENI has taken from another one.
    fn note_takeover(&self, address: IpAddr, from: &str) {
        self.ec2().note_takeover();
        info!(eni = self.eni.id, address = %address, from, "taken over");
    }

    /// Takes a floating address from the ENI that has it. If a third ENI has it by then, that
    /// ENI's request was later than this one, and it keeps the address.
    fn take_floating(&self, claimed: Claimed, owner: &Description) -> Result<()> {
        let address = claimed.address;
        say!("taking {address} from {}", described(owner));
        let own = OwnEni::new(self.ec2(), &self.eni.id, &self.node.inventory.instance_id);
        let is_proof = |taken: &Result<(), Failure>| taken.is_ok() || claimed.is_proven_by(true);
        let mut attempts = Attempts::until(self.node.aws.deadline());
        loop {
            let taken = self.ec2().reassign_once(&self.eni.id, &[address]);
            if let Err(failure) = &taken
                && !matches!(
                    failure.kind,
                    Kind::Invalid | Kind::Throttled | Kind::Unanswered
                )
            {
                return Err(self.refused(address, failure));
            }
            loop {
                let found = self.ec2().owners(&self.eni.vpc_id, &[address]);
                let found = found.map_err(|failure| self.refused(address, &failure))?;
                match found.iter().find(|eni| eni.has(address)) {
                    // A description may still show an address that has recently left this ENI.
                    Some(eni) if eni.id == self.eni.id && !is_proof(&taken) => {}
                    Some(eni) if eni.id == self.eni.id => {
                        self.note_takeover(address, &owner.id);
                        return Ok(());
                    }
                    Some(eni) if eni.id != owner.id => {
                        return Err(conflict(address, eni, "has taken it first"));
                    }
                    _ => {}
                }
                if !attempts.pause() {
                    return Err(match taken {
                        Err(failure) => self.refused(address, &failure),
                        Ok(()) => self.not_yet(address),
                    });
                }
                // EC2 answers before it moves the address, so the request is not repeated.
                if taken.is_err() {
                    // This ENI may have gone to another node, which has not asked for it.
                    own.look()
                        .map_err(|failure| self.refused(address, &failure))?;
                    break;
                }
            }
        }
    }

    fn not_yet(&self, address: IpAddr) -> Error {
        let msg = format!("AWS has not moved {address} to {} yet", self.eni.id);
        Error::new(ErrorCode::TRY_AGAIN, msg)
    }

    /// Moves an address from another ENI of this node, where it must be releasing.
    fn move_within_node(&self, claimed: Claimed, owner: &Description) -> Result<()> {
        let address = claimed.address;
        let ledger = self.node.ledger.of_eni(&owner.id)?;
        let _turn = ledger.take_turn(OTHER_TURN)?;
        let entry = ledger.open()?.get(address)?;
        let entry = entry.filter(|entry| matches!(entry.state, State::Releasing { .. }));
        let other = self
            .node
            .inventory
            .enis
            .iter()
            .find(|eni| eni.id == owner.id);
        let (Some(entry), Some(other)) = (entry, other) else {
            return Err(conflict(address, owner, "this node"));
        };
        eni::require_managed(other)?;
        release::release(self.node, &ledger, vec![entry])?;
        let assigned = self.ec2().assign(&self.eni.id, &[address]);
        match assigned {
            Err(failure) if failure.kind == Kind::Invalid => {
                let own = self.ec2().eni(&self.eni.id);
                let is_shown = own.is_ok_and(|own| own.is_some_and(|own| own.has(address)));
                match claimed.is_proven_by(is_shown) {
                    true => Ok(()),
                    false => Err(conflict(address, owner, "this node")),
                }
            }
            assigned => assigned.map_err(|failure| self.refused(address, &failure)),
        }
    }
}

/// The attempts of a takeover: until when they go on, and the pauses between.
struct Attempts {
    deadline: Instant,
    pause: Duration,
}

impl Attempts {
    fn until(deadline: Deadline) -> Self {
        Self {
            deadline: Instant::now() + deadline.left_of(DEADLINE),
            pause: FIRST_PAUSE,
        }
    }

    /// Waits until the next attempt. Returns false, without waiting, when there is no time for
    /// it. The pause is random, so that nodes that were refused together do not come back
    /// together.
    fn pause(&mut self) -> bool {
        let pause = self.pause.mul_f64(0.5 + random::chance() / 2.0);
        self.pause *= 2;
        let is_time = Instant::now() + pause < self.deadline;
        if is_time {
            thread::sleep(pause);
        }
        is_time
    }
}

/// Checks that an address can be moved at all: it is not primary, and its ENI is for pods.
fn require_movable(address: IpAddr, owner: &Description) -> Result<()> {
    if owner.primary.contains(&address) {
        let msg = format!("{address} is the primary address of {}", owner.id);
        return Err(Error::config(msg).with_details("a primary address cannot be moved"));
    }
    if !eni::is_for_pods(owner) {
        return Err(not_for_pods(address, owner));
    }
    Ok(())
}

/// The error for an address of an ENI that may belong to the VPC CNI.
fn not_for_pods(address: IpAddr, owner: &Description) -> Error {
    let msg = format!("{address} is assigned to {}", owner.id);
    let details = format!(
        "nothing is taken from an ENI that is not tagged {NO_MANAGE_TAG}=true, or is a node's primary one"
    );
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
}

fn conflict(address: IpAddr, owner: &Description, state: &str) -> Error {
    let holder = match &owner.instance_id {
        Some(instance) => format!("{} of {instance} ({state})", owner.id),
        None => format!("{}, which is attached to nothing", owner.id),
    };
    let msg = format!("{address} is assigned to {holder} and is not taken from there");
    let details = match state {
        "gone" => "takeover is \"never\"",
        _ => "its owner has to release it first",
    };
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
}

fn described(owner: &Description) -> String {
    match &owner.instance_id {
        Some(instance) => format!("{} of {instance}", owner.id),
        None => format!("{}, which is attached to nothing", owner.id),
    }
}
