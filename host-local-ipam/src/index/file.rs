//! The file of the index. Its first pages have a header and the taken addresses as bits.
//! The other pages have the addresses of the containers; the key of a container
//! determines its page.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use common::files::file::{FILE_MODE, temporary_name};
use common::files::words;

use super::NAME;
use super::header::Header;
use super::mark::Mark;
use super::page::{ENTRIES, Entry, Key, Noted, PAGE, Page};
use super::stamp::Stamp;
use crate::store::OWN_FILE;
use crate::taken::Taken;

/// An index of this boot, and the changes made to it in memory.
#[derive(Debug)]
pub(crate) struct IndexFile {
    file: File,
    header: Header,
    taken: Taken,
    /// The pages that were read.
    pages: Vec<Page>,
}

impl IndexFile {
    /// The index of `directory`, if it has one of this boot. It may be of an earlier moment.
    pub(crate) fn open(directory: &Path, boot: Key) -> Option<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OWN_FILE)
            .open(directory.join(NAME))
            .ok()?;
        let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
        let mut front = words::read(&file, 0, PAGE).ok()?;
        let header = Header::parse(&front, metadata.len())?;
        if header.boot != boot {
            return None;
        }
        if let Some(more) = header.length().checked_sub(PAGE) {
            front.extend(words::read(&file, PAGE, more).ok()?);
        }
        Some(Self {
            taken: header.taken(&front)?,
            file,
            header,
            pages: Vec::new(),
        })
    }

    /// Whether `directory` has not changed since the index was written.
    pub(crate) fn agrees_with(&self, directory: &Path) -> bool {
        Stamp::of(directory).is_ok_and(|stamp| stamp == self.header.stamp)
    }

    /// Everything that it has; `None` when it is damaged.
    pub(crate) fn all(&self) -> Option<Vec<Noted>> {
        let pages = (0..self.header.pages).map(|number| self.read(number));
        let entries = pages.map(|page| page.map(|page| page.entries));
        Some(entries.collect::<Option<Vec<_>>>()?.concat())
    }

    /// The addresses that are taken.
    pub(crate) fn taken(&self) -> &Taken {
        &self.taken
    }

    /// The addresses that a container may have, and those of irregular files; `None` when
    /// the index is damaged.
    pub(crate) fn find(&mut self, container: Option<Key>) -> Option<Vec<Entry>> {
        let mut found = Vec::new();
        let irregular = (self.header.irregular > 0).then_some(Key::IRREGULAR);
        for key in container.into_iter().chain(irregular) {
            let entries = self.page(key)?.entries.iter().map(|noted| noted.entry);
            found.extend(entries.filter(|entry| entry.key() == key));
        }
        Some(found)
    }

    /// Notes that an address is taken.
    ///
    /// # Errors
    /// `StorageFull` when the index has no room for it, `InvalidData` when it is damaged.
    pub(crate) fn insert(&mut self, entry: Entry) -> io::Result<()> {
        let page = self.page(entry.key()).ok_or_else(wrong)?;
        if page.entries.len() >= ENTRIES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mark = Mark::NONE;
        page.entries.push(Noted { entry, mark });
        page.is_changed = true;
        self.taken.insert(entry.address());
        Ok(())
    }

    /// Notes that an address is free.
    ///
    /// # Errors
    /// `InvalidData` when the index does not have it.
    pub(crate) fn remove(&mut self, entry: Entry) -> io::Result<()> {
        let page = self.page(entry.key()).ok_or_else(wrong)?;
        let at = page.entries.iter().position(|noted| noted.entry == entry);
        page.entries.swap_remove(at.ok_or_else(wrong)?);
        page.is_changed = true;
        self.taken.remove(entry.address());
        if entry.key() == Key::IRREGULAR {
            self.header.irregular = self.header.irregular.saturating_sub(1);
        }
        Ok(())
    }

    /// Writes the changes. The index becomes valid when the header agrees with the
    /// directory again, so a process that is killed before leaves no valid index.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn save(mut self, directory: &Path) -> io::Result<()> {
        for page in self.pages.iter().filter(|page| page.is_changed) {
            let first = (self.header.front + page.number) * PAGE;
            words::write(&self.file, first, &page.words(self.header.seed))?;
        }
        self.header.stamp = Stamp::set(directory)?;
        words::write(&self.file, 0, &self.header.words(&self.taken)?)
    }

    /// Creates the index of `directory`, whose address files have these entries.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn create(directory: &Path, boot: Key, mut entries: Vec<Noted>) -> io::Result<()> {
        // This is done first, so that nothing is written if the time cannot be set.
        let stamp = Stamp::set(directory)?;
        entries.sort_unstable_by_key(|noted| noted.entry);
        let taken = Taken::from_sorted(entries.iter().map(|noted| noted.entry.number()));
        let header = Header::new(stamp, boot, &taken, &entries)?;
        let file = replace(&directory.join(NAME), |file| {
            header.write_file(file, entries)
        })?;
        let made = Self {
            file,
            header,
            taken,
            pages: Vec::new(),
        };
        made.save(directory)
    }

    fn page(&mut self, key: Key) -> Option<&mut Page> {
        let number = key.page(self.header.pages);
        let at = match self.pages.iter().position(|page| page.number == number) {
            Some(at) => at,
            None => {
                self.pages.push(self.read(number)?);
                self.pages.len() - 1
            }
        };
        self.pages.get_mut(at)
    }

    fn read(&self, number: usize) -> Option<Page> {
        let first = (self.header.front + number) * PAGE;
        let words = words::read(&self.file, first, PAGE).ok()?;
        Page::parse(number, self.header.seed, &words)
    }
}

fn wrong() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// Replaces `path` by a new file that `write` writes.
fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<File> {
    let temporary = temporary_name(path);
    match fs::remove_file(&temporary) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    let mut file = BufWriter::new(
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&temporary)?,
    );
    let written = write(&mut file)
        .and_then(|()| file.flush())
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| file.into_inner().map_err(io::Error::from));
    if written.is_err() {
        // The first error is returned; a temporary file that is left does no harm.
        fs::remove_file(&temporary).ok();
    }
    written
}
