//! A page of the index: the addresses of some containers.

use std::net::{IpAddr, Ipv6Addr};

use common::address::number;
use common::files::words::{sum, sum_of_text};

use super::mark::Mark;
use crate::reservation::{Holder, Reservation};

/// Words of a page.
pub(crate) const PAGE: usize = 512;
/// Words of an entry.
const ENTRY: usize = 4;
/// Words before the entries: the checksum of the following words, and the number of
/// entries.
const HEAD: usize = 2;
/// The maximum number of entries in a page.
pub(crate) const ENTRIES: usize = (PAGE - HEAD) / ENTRY;

/// The key of a container, a hash of its id. Two containers can have the same key; the
/// address file decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(u64);

/// An address and the key of its container. Sorted by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// The two halves of the address's number.
    high: u64,
    low: u64,
    key: Key,
}

/// What the index knows of an address file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noted {
    /// Its content.
    pub(crate) entry: Entry,
    /// The file that had it.
    pub(crate) mark: Mark,
}

/// The entries of some containers.
#[derive(Debug)]
pub(crate) struct Page {
    /// The index of the page.
    pub(crate) number: usize,
    /// The entries, unsorted.
    pub(crate) entries: Vec<Noted>,
    /// Whether the entries differ from those in the file.
    pub(crate) is_changed: bool,
}

impl Key {
    /// The key of files without a container, which are read by every command.
    pub(crate) const IRREGULAR: Self = Self(0);

    /// The key of a container.
    pub(crate) fn of(container_id: &str) -> Self {
        Self(sum_of_text(0, container_id.as_bytes()).max(1))
    }

    /// The key of a word in the file.
    pub(crate) fn parse(word: u64) -> Self {
        Self(word)
    }

    /// The word for the file.
    pub(crate) fn word(self) -> u64 {
        self.0
    }

    /// The page that has the entries of this container.
    pub(crate) fn page(self, pages: usize) -> usize {
        // The remainder is smaller than a usize.
        usize::try_from(self.0 % pages.max(1) as u64).unwrap_or_default()
    }
}

impl Entry {
    /// The entry of a reservation. A file without a container is read by every command,
    /// because another process may have completed it meanwhile.
    pub(crate) fn of(reservation: &Reservation) -> Self {
        let key = match &reservation.holder {
            Holder::Owner(owner) => Key::of(&owner.container_id),
            Holder::Nobody | Holder::Unknown(_) | Holder::Unreadable(_) => Key::IRREGULAR,
        };
        Self::new(key, reservation.address)
    }

    /// The entry of `address`, which the container with this key has.
    fn new(key: Key, address: IpAddr) -> Self {
        let [high, low] = halves(number(address));
        Self { key, high, low }
    }

    /// The address.
    pub(crate) fn address(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from_bits(self.number())).to_canonical()
    }

    /// The number of the address.
    pub(crate) fn number(self) -> u128 {
        whole(self.high, self.low)
    }

    /// The key of its container.
    pub(crate) fn key(self) -> Key {
        self.key
    }
}

impl Page {
    /// A page with the entries in the file.
    pub(crate) fn new(number: usize, entries: Vec<Noted>) -> Self {
        Self {
            number,
            entries,
            is_changed: false,
        }
    }

    /// Reads the page with this number of the index with this seed; `None` when the
    /// checksum is wrong.
    pub(crate) fn parse(number: usize, seed: u64, words: &[u64]) -> Option<Self> {
        let (expected, summed) = words.split_first()?;
        let (count, entries) = summed.split_first()?;
        let count = usize::try_from(*count).ok()?;
        if sum(seed ^ number as u64, summed) != *expected || count > ENTRIES {
            return None;
        }
        let entries = entries.chunks_exact(ENTRY).take(count).map(noted);
        Some(Self::new(number, entries.collect::<Option<_>>()?))
    }

    /// The words of the page in the index with this seed.
    pub(crate) fn words(&self, seed: u64) -> Vec<u64> {
        let entries = self.entries.iter();
        let entries = entries.flat_map(|Noted { entry, mark }| {
            let Entry { high, low, key } = *entry;
            [key.0, high, low, mark.word()]
        });
        let mut words = vec![0, self.entries.len() as u64];
        words.extend(entries);
        words.resize(PAGE, 0);
        let expected = sum(
            seed ^ self.number as u64,
            words.get(1..).unwrap_or_default(),
        );
        words.iter_mut().take(1).for_each(|word| *word = expected);
        words
    }
}

fn noted(words: &[u64]) -> Option<Noted> {
    let [key, high, low, mark] = *words else {
        return None;
    };
    let key = Key(key);
    Some(Noted {
        entry: Entry { high, low, key },
        mark: Mark::parse(mark),
    })
}

/// A number as two words.
pub(crate) fn halves(number: u128) -> [u64; 2] {
    let half = |number: u128| u64::try_from(number & u128::from(u64::MAX)).unwrap_or_default();
    [half(number >> 64), half(number)]
}

/// The number of two words.
pub(crate) fn whole(high: u64, low: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_can_be_read_again_but_not_with_a_changed_bit() {
        let addresses = ["10.0.0.2", "2001:db8::2", "ffff::"].map(|text| text.parse().unwrap());
        let entries = addresses.map(|address| Noted {
            entry: Entry::new(Key::of("c1"), address),
            mark: Mark::parse(5),
        });
        let page = Page::new(3, entries.to_vec());
        let words = page.words(7);
        let read = Page::parse(3, 7, &words).unwrap().entries;
        let fields = |noted: &Noted| (noted.entry, noted.mark);
        assert!(read.iter().map(fields).eq(entries.iter().map(fields)));
        let found = read.iter().map(|noted| noted.entry.address());
        assert!(found.eq(addresses));
        assert!(Page::parse(2, 7, &words).is_none());
        assert!(Page::parse(3, 8, &words).is_none());
        for bit in 0..PAGE * 64 {
            let mut wrong = words.clone();
            wrong[bit / 64] ^= 1 << (bit % 64);
            assert!(Page::parse(3, 7, &wrong).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn containers_spread_over_the_pages() {
        for digits in [3, 64] {
            let mut counts = [0; 64];
            for n in 0..6_400 {
                counts[Key::of(&format!("{n:0digits$x}")).page(64)] += 1;
            }
            assert!(
                counts.iter().all(|count| (50..160).contains(count)),
                "{counts:?}"
            );
        }
    }
}
