//! The first pages of the index: the header and the taken addresses.

use std::io::{self, Write};

use common::files::words::{bytes, sum};

use super::page::{ENTRIES, Key, Noted, PAGE, Page, halves, whole};
use super::stamp::Stamp;
use crate::taken::{Block, Taken};

/// The first word, which differs between formats.
const MAGIC: u64 = u64::from_le_bytes(*b"hl-idx-2");
/// Words of the header without the blocks: two, the stamp and six.
const HEADER: usize = 2 + Stamp::WORDS + 6;
/// Words of a block.
const BLOCK: usize = 3;
/// The maximum number of pages for header and blocks: 4 MiB. If more are needed, the
/// addresses are so scattered that an index is useless.
const FRONT_LIMIT: usize = 1024;

/// The directory and the boot of an index, and the layout of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The directory after the last change.
    pub(crate) stamp: Stamp,
    /// The boot in which it was written. After a power failure the file may be
    /// incomplete.
    pub(crate) boot: Key,
    /// The seed of the pages' checksums, so that pages of another index are recognised as
    /// wrong.
    pub(crate) seed: u64,
    /// The number of pages for header and blocks.
    pub(crate) front: usize,
    /// The number of pages with entries.
    pub(crate) pages: usize,
    /// The number of irregular entries.
    pub(crate) irregular: usize,
    /// The number of blocks.
    blocks: usize,
}

impl Header {
    /// The header of an index of these entries, with room for as many more.
    ///
    /// # Errors
    /// `StorageFull` when they are too scattered.
    pub(crate) fn new(
        stamp: Stamp,
        boot: Key,
        taken: &Taken,
        entries: &[Noted],
    ) -> io::Result<Self> {
        let irregular = entries
            .iter()
            .filter(|noted| noted.entry.key() == Key::IRREGULAR);
        let header = Self {
            stamp,
            boot,
            seed: sum(entries.len() as u64, &stamp.words()),
            front: (HEADER + taken.blocks().len() * 2 * BLOCK) / PAGE + 1,
            pages: entries.len() / (ENTRIES / 2) + 1,
            irregular: irregular.count(),
            blocks: 0,
        };
        if header.front > FRONT_LIMIT {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(header)
    }

    /// The header at the start of these words, of a file of `length` bytes; `None` when
    /// it is invalid.
    pub(crate) fn parse(words: &[u64], length: u64) -> Option<Self> {
        let (magic, rest) = words.split_first()?;
        let (stamp, rest) = rest.get(1..)?.split_first_chunk()?;
        let [boot, seed, front, pages, irregular, blocks] = *rest.first_chunk()?;
        let count = |word: u64| usize::try_from(word).ok();
        let header = Self {
            stamp: Stamp::parse(*stamp),
            boot: Key::parse(boot),
            seed,
            front: count(front)?,
            pages: count(pages)?,
            irregular: count(irregular)?,
            blocks: count(blocks)?,
        };
        let has_length = header
            .front
            .checked_add(header.pages)?
            .checked_mul(PAGE * 8)? as u64
            == length;
        let fits =
            header.front <= FRONT_LIMIT && header.pages > 0 && header.blocks <= header.room();
        (*magic == MAGIC && has_length && fits).then_some(header)
    }

    /// The number of used words in the pages for header and blocks.
    pub(crate) fn length(&self) -> usize {
        HEADER + self.blocks * BLOCK
    }

    /// The taken addresses in these words; `None` when the checksum is wrong.
    pub(crate) fn taken(&self, words: &[u64]) -> Option<Taken> {
        let words = words.get(..self.length())?;
        if words.get(1) != Some(&sum(MAGIC, words.get(2..)?)) {
            return None;
        }
        let blocks = words.get(HEADER..)?.chunks_exact(BLOCK).map(block);
        Taken::from_blocks(blocks.collect::<Option<_>>()?)
    }

    /// The words of the header and these addresses.
    ///
    /// # Errors
    /// `StorageFull` when there is no room for them.
    pub(crate) fn words(&mut self, taken: &Taken) -> io::Result<Vec<u64>> {
        self.blocks = taken.blocks().len();
        if self.blocks > self.room() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let counts = [self.front, self.pages, self.irregular, self.blocks];
        let mut words = Vec::with_capacity(self.length());
        words.extend([MAGIC, 0]);
        words.extend(self.stamp.words());
        words.extend([self.boot.word(), self.seed]);
        words.extend(counts.map(|count| count as u64));
        for block in taken.blocks() {
            words.extend(halves(block.base));
            words.push(block.bits);
        }
        let expected = sum(MAGIC, words.get(2..).unwrap_or_default());
        words
            .iter_mut()
            .skip(1)
            .take(1)
            .for_each(|word| *word = expected);
        Ok(words)
    }

    /// Writes a whole file: zeros for the header, and all entries.
    ///
    /// # Errors
    /// Those of the file system; `StorageFull` when a page has no room.
    pub(crate) fn write_file(
        &self,
        file: &mut impl Write,
        mut entries: Vec<Noted>,
    ) -> io::Result<()> {
        file.write_all(&vec![0; self.front * PAGE * 8])?;
        let page = |noted: &Noted| noted.entry.key().page(self.pages);
        entries.sort_unstable_by_key(page);
        let mut rest = entries.as_slice();
        for number in 0..self.pages {
            let count = rest.partition_point(|noted| page(noted) <= number);
            let (entries, later) = rest.split_at_checked(count).unwrap_or_default();
            if entries.len() > ENTRIES {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let page = Page::new(number, entries.to_vec());
            file.write_all(&bytes(&page.words(self.seed)))?;
            rest = later;
        }
        Ok(())
    }

    /// How many blocks there is room for.
    fn room(&self) -> usize {
        (self.front * PAGE).saturating_sub(HEADER) / BLOCK
    }
}

fn block(words: &[u64]) -> Option<Block> {
    let [high, low, bits] = *words else {
        return None;
    };
    Some(Block {
        base: whole(high, low),
        bits,
    })
}
