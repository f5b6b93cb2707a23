//! An address that another ENI has: whether it may be taken from there, and taking it.
//! Nothing is taken from an instance that runs, unless the network's configuration
//! says that the address floats.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use common::error::{Error, ErrorCode, Result};
use common::inventory::NO_MANAGE_TAG;

use crate::assign::{Assigner, Claimed};
use crate::config::Takeover;
use crate::ec2::{Description, Family};
use crate::failure::{Failure, Kind};
use crate::ledger::State;
use crate::plan;
use crate::release;

/// How long AWS may take to move an address after it has agreed to.
const MOVE_DEADLINE: Duration = Duration::from_secs(20);
/// The first pause between two looks at a move; each is twice as long as the one before.
const FIRST_LOOK: Duration = Duration::from_millis(250);
/// States of an instance that never runs again. Source: Amazon EC2 User Guide,
/// "Amazon EC2 instance state changes".
const DEAD: [&str; 2] = ["shutting-down", "terminated"];
/// How long another process may need for its turn on the other ENI.
const OTHER_TURN: Duration = Duration::from_secs(5);

/// What is known of the instance that an address's ENI is attached to.
enum Holder {
    /// The ENI is attached to nothing, or to an instance that never runs again.
    Dead,
    /// It is another ENI of this node.
    ThisNode,
    /// Its instance is in this state and may use it.
    Other(String),
}

impl Assigner<'_> {
    /// Takes an address from the ENI that has it, if it may be taken from there.
    ///
    /// # Errors
    /// Code 11 naming the address, the ENI and its instance, when it may not; 7 when it
    /// is the ENI's primary address, which can never move; else what AWS says.
    pub(crate) fn take_over(&self, claimed: Claimed, owner: &Description) -> Result<()> {
        let address = claimed.address;
        if owner.primary.contains(&address) {
            let msg = format!("{address} is the primary address of {}", owner.id);
            return Err(Error::config(msg).with_details("a primary address cannot be moved"));
        }
        if !plan::is_for_pods(owner) {
            return Err(stranger(address, owner));
        }
        let holder = self.holder(owner).map_err(|f| self.refused(address, &f))?;
        match (holder, claimed.takeover) {
            (Holder::ThisNode, _) => self.move_within_node(address, owner),
            (Holder::Dead, Takeover::DeadOwner | Takeover::Always) => self.take(address, owner),
            (Holder::Other(_), Takeover::Always) if Family::of(address) == Family::V4 => {
                self.take(address, owner)
            }
            (Holder::Other(state), _) => Err(conflict(address, owner, &state)),
            (Holder::Dead, Takeover::Never) => Err(conflict(address, owner, "gone")),
        }
    }

    fn holder(&self, owner: &Description) -> Result<Holder, Failure> {
        let Some(instance) = &owner.instance_id else {
            return Ok(Holder::Dead);
        };
        if *instance == self.node.inventory.instance_id {
            return Ok(Holder::ThisNode);
        }
        Ok(match self.ec2().instance_state(instance)? {
            Some(state) if !DEAD.contains(&state.as_str()) => Holder::Other(state),
            _ => Holder::Dead,
        })
    }

    /// Takes an address from the ENI of an instance that is dead, or that must share.
    fn take(&self, address: IpAddr, owner: &Description) -> Result<()> {
        eprintln!(
            "taking {address} from {} ({})",
            owner.id,
            owner
                .instance_id
                .as_deref()
                .unwrap_or("attached to nothing")
        );
        let family = Family::of(address);
        let taken = self.request_move(address, owner);
        let patience = match &taken {
            Err(failure) if failure.kind != Kind::Invalid => {
                return Err(self.refused(address, failure));
            }
            Err(_) if family == Family::V6 => Duration::ZERO,
            // AWS also refuses what it does already, when the first answer was lost.
            _ => MOVE_DEADLINE,
        };
        let moved = self.await_move(address, patience);
        moved.map_err(|error| match taken {
            Err(failure) => self.refused(address, &failure),
            Ok(()) => error,
        })?;
        self.ec2().note_takeover();
        Ok(())
    }

    fn request_move(&self, address: IpAddr, owner: &Description) -> Result<(), Failure> {
        let ec2 = self.ec2();
        let one = [address];
        match Family::of(address) {
            Family::V4 => ec2.reassign(&self.eni.id, &one),
            // EC2 cannot move an IPv6 address in one step. It refuses the first when
            // the address has left already.
            Family::V6 => match ec2.unassign(&owner.id, &one) {
                Err(failure) if failure.kind != Kind::Invalid => Err(failure),
                _ => ec2.assign(&self.eni.id, &one),
            },
        }
    }

    /// Waits until EC2 shows the address on the ENI, and looks at least once: it agrees
    /// to a move before the move is made.
    fn await_move(&self, address: IpAddr, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut pause = FIRST_LOOK;
        loop {
            let own = self.ec2().eni(&self.eni.id);
            let own = own.map_err(|failure| self.refused(address, &failure))?;
            if own.is_some_and(|own| own.has(address)) {
                return Ok(());
            }
            if Instant::now() + pause >= deadline {
                let msg = format!("AWS has not moved {address} to {} yet", self.eni.id);
                return Err(Error::new(ErrorCode::TRY_AGAIN, msg));
            }
            thread::sleep(pause);
            pause *= 2;
        }
    }

    /// Moves an address from another ENI of this node, where it must be on its way out.
    fn move_within_node(&self, address: IpAddr, owner: &Description) -> Result<()> {
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
        plan::require_managed(other)?;
        release::release(self.node, &ledger, vec![entry])?;
        let assigned = self.ec2().assign(&self.eni.id, &[address]);
        match assigned {
            Err(failure) if failure.kind == Kind::Invalid => self
                .await_move(address, Duration::ZERO)
                .map_err(|_| conflict(address, owner, "this node")),
            assigned => assigned.map_err(|failure| self.refused(address, &failure)),
        }
    }
}

/// The refusal to take anything from an ENI that may be the VPC CNI's.
fn stranger(address: IpAddr, owner: &Description) -> Error {
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
