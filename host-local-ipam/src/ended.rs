//! Finds reservations whose containers have ended without a DEL. An ADD looks at a few
//! of them in turn, the oldest first, so that it costs the same however many there are; one
//! that finds no free address looks at as many as are worth the wait.

use std::net::IpAddr;

use common::kernel::netns::Holders;

use crate::allocator;
use crate::container::{Container, Machine};
use crate::range::RangeSet;
use crate::reservation::{Holder, Reservation};
use crate::store::Store;
use crate::taken::Taken;

/// How many reservations of a range set an ADD looks at.
const FEW: usize = 2;
/// Up to this many, all of an exhausted range set are looked at.
const ALL: usize = 256;
/// How many of a larger one.
const SOME: usize = 4;

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Examined<'a> {
    /// The locked store.
    pub store: &'a Store,
    /// The machine since its start.
    pub machine: &'a Machine,
    /// What is reserved.
    pub taken: &'a Taken,
}

impl Examined<'_> {
    /// Those of the next few reservations of every set, and of the requested addresses,
    /// whose containers have ended. A set hands its addresses out in turn, so the next
    /// ones after the last are its oldest.
    pub fn in_turn(
        &self,
        sets: &[RangeSet],
        requested: &[IpAddr],
        last_reserved: &[Option<IpAddr>],
    ) -> Vec<Reservation> {
        let requested = requested.iter().copied();
        let requested = requested.filter(|address| self.taken.contains(*address));
        let of_sets = sets.iter().zip(last_reserved);
        let next = of_sets
            .flat_map(|(set, last)| allocator::taken_after(set, *last, self.taken).take(FEW));
        self.ended(requested.chain(next))
    }

    /// Those of an exhausted set whose containers have ended. Where not all are looked at,
    /// the attempt of another container looks at others.
    pub fn in_exhausted(&self, set: &RangeSet, attempt: &str) -> Vec<Reservation> {
        let all = || allocator::taken_after(set, None, self.taken);
        let count = all().take(ALL + 1).count();
        if count <= ALL {
            return self.ended(all());
        }
        let bytes = attempt.bytes();
        let start = bytes.fold(0usize, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        });
        self.ended(all().skip(start % ALL * SOME).take(SOME))
    }

    fn ended(&self, addresses: impl Iterator<Item = IpAddr>) -> Vec<Reservation> {
        let mut ended: Vec<Reservation> = Vec::new();
        let holders = Holders::default();
        for address in addresses {
            let is_new = ended
                .iter()
                .all(|reservation| reservation.address != address);
            ended.extend(self.examine(address, &holders).filter(|_| is_new));
        }
        ended
    }

    /// The reservation of `address` when its container has ended. The file is read for
    /// that case only.
    fn examine(&self, address: IpAddr, holders: &Holders) -> Option<Reservation> {
        let name = address.to_string();
        let container = Container::read(&self.store.directory().join(&name))?;
        if !container.has_ended(self.machine, holders) {
            return None;
        }
        let reservation = Reservation::read(self.store.directory(), &name)?;
        matches!(reservation.holder, Holder::Owner(_)).then_some(reservation)
    }
}
