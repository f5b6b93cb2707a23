//! The set of taken addresses, as bits: a full network needs only some kilobytes, and the
//! search for a free address examines 64 addresses at once.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use common::address::number;

/// The taken addresses of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The blocks, sorted by their bases; none is empty.
    blocks: Vec<Block>,
}

/// 64 consecutive addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The number of the first address without its last six bits.
    pub base: u128,
    /// The lowest bit is that of the first address.
    pub bits: u64,
}

impl Block {
    /// How many low bits of a number are the index in the block.
    const BITS: u32 = 6;

    /// A block with only the address of this number.
    fn with(number: u128) -> Self {
        Self {
            base: number >> Self::BITS,
            bits: 1 << (number & 63),
        }
    }

    /// The numbers of its addresses.
    fn numbers(self) -> impl Iterator<Item = u128> {
        let first = self.base << Self::BITS;
        let bits = (0..u64::BITS).filter(move |bit| self.bits >> bit & 1 == 1);
        bits.map(move |bit| first + u128::from(bit))
    }

    /// The number of the first free address that is not before `number`.
    fn first_free(self, number: u128) -> Option<u128> {
        let first = number.max(self.base << Self::BITS);
        let free = !self.bits >> (first & 63);
        (free != 0).then(|| first + u128::from(free.trailing_zeros()))
    }
}

impl Taken {
    /// The set of these blocks; `None` when they are not sorted or one is empty.
    pub fn from_blocks(blocks: Vec<Block>) -> Option<Self> {
        let ordered = blocks.is_sorted_by(|a, b| a.base < b.base);
        let valid = blocks
            .iter()
            .all(|b| b.bits != 0 && b.base <= u128::MAX >> Block::BITS);
        (ordered && valid).then_some(Self { blocks })
    }

    /// The set of the addresses with these numbers, which must be sorted.
    pub fn from_sorted(numbers: impl IntoIterator<Item = u128>) -> Self {
        let mut blocks: Vec<Block> = Vec::new();
        for one in numbers.into_iter().map(Block::with) {
            match blocks.last_mut() {
                Some(last) if last.base == one.base => last.bits |= one.bits,
                _ => blocks.push(one),
            }
        }
        Self { blocks }
    }

    /// Every block that has a taken address, in order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Whether `address` is taken.
    pub fn contains(&self, address: IpAddr) -> bool {
        let one = Block::with(number(address));
        let block = self.find(one.base).ok().and_then(|at| self.blocks.get(at));
        block.is_some_and(|block| block.bits & one.bits != 0)
    }

    /// Adds an address.
    pub fn insert(&mut self, address: IpAddr) {
        let one = Block::with(number(address));
        match self.find(one.base) {
            Ok(at) => self
                .blocks
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|b| b.bits |= one.bits),
            Err(at) => self.blocks.insert(at, one),
        }
    }

    /// Removes an address.
    pub fn remove(&mut self, address: IpAddr) {
        let one = Block::with(number(address));
        let Ok(at) = self.find(one.base) else { return };
        let left = self.blocks.get_mut(at).map(|block| {
            block.bits &= !one.bits;
            block.bits
        });
        if left == Some(0) {
            self.blocks.remove(at);
        }
    }

    /// The first number among these whose address is free.
    pub fn first_free(&self, numbers: RangeInclusive<u128>) -> Option<u128> {
        let (mut next, end) = numbers.into_inner();
        let at = self.find(next >> Block::BITS).unwrap_or_else(|at| at);
        for block in self.blocks.iter().skip(at) {
            if next >> Block::BITS != block.base {
                break;
            }
            match block.first_free(next) {
                Some(free) => return (free <= end).then_some(free),
                None => next = (block.base + 1).checked_mul(1 << Block::BITS)?,
            }
        }
        (next <= end).then_some(next)
    }

    /// The numbers among these whose addresses are taken, in order.
    pub fn numbers_in(&self, numbers: RangeInclusive<u128>) -> impl Iterator<Item = u128> {
        let first = self.find(*numbers.start() >> Block::BITS);
        let blocks = self.blocks.iter().skip(first.unwrap_or_else(|at| at));
        let end = *numbers.end() >> Block::BITS;
        let blocks = blocks.take_while(move |block| block.base <= end);
        let all = blocks.flat_map(|block| block.numbers());
        all.filter(move |number| numbers.contains(number))
    }

    fn find(&self, base: u128) -> Result<usize, usize> {
        self.blocks.binary_search_by_key(&base, |block| block.base)
    }
}

impl FromIterator<IpAddr> for Taken {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        let mut numbers: Vec<u128> = addresses.into_iter().map(number).collect();
        numbers.sort_unstable();
        Self::from_sorted(numbers)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn v4(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    /// Pseudo-random numbers, the same in every run.
    fn random() -> impl FnMut(u32) -> u32 {
        let mut state = 1u32;
        move |limit| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % limit
        }
    }

    #[test]
    fn it_has_the_addresses_that_were_inserted_and_not_removed() {
        let mut below = random();
        let (mut taken, mut model) = (Taken::default(), BTreeSet::new());
        for _ in 0..20_000 {
            let n = below(400);
            if below(2) == 0 {
                taken.insert(v4(n));
                model.insert(n);
            } else {
                taken.remove(v4(n));
                model.remove(&n);
            }
            let probe = below(420);
            assert_eq!(taken.contains(v4(probe)), model.contains(&probe));
            let (first, last) = (below(420), below(420));
            let expected = (first..=last)
                .find(|n| !model.contains(n))
                .map(|n| number(v4(n)));
            let numbers = number(v4(first))..=number(v4(last));
            let inside = model.iter().filter(|n| (first..=last).contains(n));
            let inside: Vec<u128> = inside.map(|n| number(v4(*n))).collect();
            assert_eq!(
                taken.numbers_in(numbers.clone()).collect::<Vec<_>>(),
                inside
            );
            assert_eq!(
                taken.first_free(numbers),
                expected,
                "{first} {last} {model:?}"
            );
        }
        let collected: Taken = model.iter().map(|n| v4(*n)).collect();
        assert_eq!(collected, taken);
        assert_eq!(Taken::from_blocks(taken.blocks().to_vec()), Some(taken));
    }

    #[test]
    fn families_are_separate_and_the_largest_address_has_no_next_one() {
        let mut taken = Taken::default();
        taken.insert("0.0.0.5".parse().unwrap());
        assert!(!taken.contains("::5".parse().unwrap()));
        let last: IpAddr = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        taken.insert(last);
        assert_eq!(taken.first_free(u128::MAX..=u128::MAX), None);
        assert_eq!(
            taken.first_free(u128::MAX - 1..=u128::MAX),
            Some(u128::MAX - 1)
        );
    }

    #[test]
    fn invalid_blocks_are_refused() {
        let block = |base, bits| Block { base, bits };
        for wrong in [
            vec![block(1, 0)],
            vec![block(2, 1), block(1, 1)],
            vec![block(1, 1), block(1, 2)],
            vec![block(u128::MAX, 1)],
        ] {
            assert_eq!(Taken::from_blocks(wrong), None);
        }
    }
}
