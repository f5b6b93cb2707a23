//! Finds reservations whose containers have ended without a DEL. An ADD examines a few of
//! them in turn, the oldest first, so its cost does not depend on their number. An ADD that
//! finds no free address examines more.

use std::net::IpAddr;

use common::kernel::netns::Holders;

use crate::allocator;
use crate::container::{Container, Machine};
use crate::range::RangeSet;
use crate::reservation::{Holder, Reservation};
use crate::store::Store;
use crate::taken::Taken;

/// How many reservations of a range set an ADD examines.
const FEW: usize = 2;
/// Up to this number, all reservations of an exhausted range set are examined.
const ALL: usize = 256;
/// How many reservations of a larger one are examined.
const SOME: usize = 4;

/// A search for ended reservations.
#[derive(Clone, Copy, Debug)]
pub struct Examined<'a> {
    /// The locked store.
    pub store: &'a Store,
    /// The machine and its boot.
    pub machine: &'a Machine,
    /// The reserved addresses.
    pub taken: &'a Taken,
}

impl Examined<'_> {
    /// Examines the next few reservations of every set, and those of the requested
    /// addresses. Returns those whose containers have ended. A set assigns its addresses
    /// round robin, so those after the last reserved one are the oldest.
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

    /// Examines reservations of an exhausted set, and returns those whose containers have
    /// ended. If there are too many, the ADD of another container examines others:
    /// `attempt`, the container id, determines which ones.
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

    /// The reservation of `address` if its container has ended. Its file is read in that
    /// case only. What cannot be read now is examined when its turn comes again.
    fn examine(&self, address: IpAddr, holders: &Holders) -> Option<Reservation> {
        let name = address.to_string();
        let container = Container::read(&self.store.directory().join(&name)).ok()??;
        if !container.has_ended(self.machine, holders) {
            return None;
        }
        let reservation = Reservation::read(self.store.directory(), &name)?;
        matches!(reservation.holder, Holder::Owner(_)).then_some(reservation)
    }
}
