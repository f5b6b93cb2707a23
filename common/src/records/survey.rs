//! A cache that says which records of a plugin are about a device, without reading each of them.
//! Each record has a *mark*, a number that is computed from its device. A file beside the
//! records keeps the marks of those that were read before.
//!
//! The file is only a cache. An entry is valid for the record with the same name and inode,
//! because a record is never changed in place but replaced. All other records are read; without
//! a valid file of this version, every record is. No process waits for the file, and no command
//! fails because of it. If an attachment is made again under the names of one that has ended,
//! its record can get the same inode and match the old entry. So a caller of
//! [`survey`](Records::survey) that does not find a device by the marks has to read the records.
//! [`find_marked`](Records::find_marked) also compares the time at which the inode was changed,
//! and misses none; that takes a system call for each record instead of five.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RawDir, openat};
use serde::de::DeserializeOwned;

use super::attachment::Attachment;
use super::record_file::{Recorded, read_record};
use super::{EXTENSION, Records, list};
use crate::error::{Error, Errors, Result};
use crate::files::file;
use crate::files::words::{bytes, parse, sum, sum_of_text};

/// The first word of the file. It has to change when marks are computed in another way.
const MAGIC: u64 = u64::from_le_bytes(*b"eni-cni\x02");
/// Words of an entry.
const ENTRY: usize = 4;
/// The maximum size of the file in bytes, far more than the attachments of a node need.
const LIMIT: u64 = 1 << 24;
/// How many records must be new before the file is written. Writing it costs as much as reading
/// a few records.
const WORTH_WRITING: usize = 8;
/// The size of the buffer for reading a directory, in bytes.
const BUFFER: usize = 1 << 15;

/// The marks of all records.
#[derive(Debug)]
pub struct Survey<D> {
    /// The records without a mark, which every caller has to examine.
    pub unmarked: Vec<Attachment<D>>,
    /// The marks of all other records.
    marks: Vec<u64>,
}

impl<D> Survey<D> {
    /// Whether there is a record with this mark.
    pub fn has(&self, mark: u64) -> bool {
        self.marks.contains(&mark)
    }
}

/// The file of a record, and its mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    inode: u64,
    /// A checksum of the names of network and file.
    name: u64,
    /// When the inode was changed, in nanoseconds since 1970. Nobody can set it.
    changed: u64,
    mark: u64,
}

impl Entry {
    /// The file of a record that was found, for a directory with this checksum.
    fn of(of_network: u64, file: &[u8], inode: u64) -> Self {
        Self {
            inode,
            name: sum_of_text(of_network, file),
            changed: 0,
            mark: 0,
        }
    }

    /// With the time at which the file at `path` was changed. This is read before the record: if
    /// that is replaced meanwhile, the inode of this entry is not its inode.
    fn dated(self, path: &Path) -> Self {
        let Ok(metadata) = fs::symlink_metadata(path) else {
            return self;
        };
        let seconds = metadata.ctime().cast_unsigned().wrapping_mul(1_000_000_000);
        let changed = seconds.wrapping_add(metadata.ctime_nsec().cast_unsigned());
        Self { changed, ..self }
    }

    /// The entry of the same file among `known`, which are sorted.
    fn among(&self, known: &[Self]) -> Option<Self> {
        let key = |entry: &Self| (entry.inode, entry.name);
        let next = known.get(known.partition_point(|entry| key(entry) < key(self)));
        next.filter(|entry| key(entry) == key(self)).copied()
    }
}

impl Records {
    /// The marks of all records. `mark` computes the mark of a record from nothing but the
    /// record; `None` means that it has no mark. The errors of unreadable records are added to
    /// `errors`.
    ///
    /// # Errors
    /// Code 5 naming the directory that cannot be read.
    pub fn survey<D: DeserializeOwned>(
        &self,
        mark: impl Fn(&Attachment<D>) -> Option<u64>,
        errors: &mut Errors,
    ) -> Result<Survey<D>> {
        let known = read(&self.marks_file());
        let (mut entries, mut unmarked, mut new) = (Vec::new(), Vec::new(), 0);
        for network in list(&self.directory)? {
            for (path, found) in unknown(&network, &known, &mut entries)? {
                let found = found.dated(&path);
                let record = read_record(&path).and_then(Recorded::whole);
                let Some(record) = errors.keep(record).flatten() else {
                    continue;
                };
                match mark(&record) {
                    None => unmarked.push(record),
                    Some(mark) => {
                        entries.push(Entry { mark, ..found });
                        new += 1;
                    }
                }
            }
        }
        if new >= WORTH_WRITING {
            // If this fails, the next caller reads the records again.
            write(&self.marks_file(), &mut entries).ok();
        }
        Ok(Survey {
            unmarked,
            marks: entries.iter().map(|entry| entry.mark).collect(),
        })
    }

    /// The first record for which `wanted` is true, of those whose mark is `of_device` and of those
    /// that have none. `mark` is as for [`Self::survey`], and the same for every caller. The
    /// errors of unreadable records are added to `errors`.
    ///
    /// # Errors
    /// Code 5 naming the directory that cannot be read, and those of `wanted`.
    pub fn find_marked<D: DeserializeOwned>(
        &self,
        (mark, of_device): (impl Fn(&Attachment<D>) -> Option<u64>, Option<u64>),
        wanted: impl Fn(&Attachment<D>) -> Result<bool>,
        errors: &mut Errors,
    ) -> Result<Option<Attachment<D>>> {
        let networks = list(&self.directory)?;
        if networks.is_empty() {
            return Ok(None);
        }
        let known = read(&self.marks_file());
        let (mut entries, mut new) = (Vec::new(), 0);
        for network in networks {
            for (path, found) in unknown(&network, &[], &mut Vec::new())? {
                let found = found.dated(&path);
                let before = found.among(&known);
                let before = before.filter(|entry| entry.changed == found.changed);
                entries.extend(before);
                if before.is_some_and(|entry| Some(entry.mark) != of_device) {
                    continue;
                }
                let record = read_record(&path).and_then(Recorded::whole);
                let Some(record) = errors.keep(record).flatten() else {
                    continue;
                };
                let mark = mark(&record);
                if let (None, Some(mark)) = (before, mark) {
                    entries.push(Entry { mark, ..found });
                    new += 1;
                }
                if (mark.is_none() || mark == of_device) && wanted(&record)? {
                    return Ok(Some(record));
                }
            }
        }
        if new >= WORTH_WRITING {
            // As above.
            write(&self.marks_file(), &mut entries).ok();
        }
        Ok(None)
    }

    /// The path of the file. It is beside the directory of the records, which contains only
    /// networks.
    fn marks_file(&self) -> PathBuf {
        let plugin = self.directory.file_name().unwrap_or_default();
        let name = format!(".{}.marks", plugin.to_string_lossy());
        self.directory.with_file_name(name)
    }
}

/// The records in the directory of a network that are not among `known`, sorted by name. The
/// entries of the others are added to `entries`.
fn unknown(
    network: &Path,
    known: &[Entry],
    entries: &mut Vec<Entry>,
) -> Result<Vec<(PathBuf, Entry)>> {
    let mut unknown = Vec::new();
    let of_network = sum_of_text(MAGIC, network.as_os_str().as_bytes());
    let listed = for_each_record(network, |file, inode| {
        let found = Entry::of(of_network, file, inode);
        match found.among(known) {
            Some(entry) => entries.push(entry),
            None => unknown.push((network.join(OsStr::from_bytes(file)), found)),
        }
    });
    match listed {
        Err(cause) if file::is_missing(&cause) => {}
        listed => {
            listed.map_err(|cause| Error::io(format!("failed to list {network:?}"), &cause))?;
        }
    }
    unknown.sort();
    Ok(unknown)
}

/// Calls `see` with name and inode of every record in a directory.
fn for_each_record(directory: &Path, mut see: impl FnMut(&[u8], u64)) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, directory, flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name.ends_with(EXTENSION.as_bytes()) {
            see(name, entry.ino());
        }
    }
    Ok(())
}

/// The entries of the file, sorted; none when it is damaged or of another version.
fn read(path: &Path) -> Vec<Entry> {
    let content = file::read_regular(path, LIMIT).unwrap_or_default();
    if !content.len().is_multiple_of(size_of::<u64>()) {
        return Vec::new();
    }
    let words = parse(&content);
    let [MAGIC, expected, ref rest @ ..] = words[..] else {
        return Vec::new();
    };
    let (chunks, cut) = rest.as_chunks::<ENTRY>();
    if sum(MAGIC, rest) != expected || !cut.is_empty() {
        return Vec::new();
    }
    let entry = |[inode, name, changed, mark]: &[u64; ENTRY]| Entry {
        inode: *inode,
        name: *name,
        changed: *changed,
        mark: *mark,
    };
    chunks.iter().map(entry).collect()
}

fn write(path: &Path, entries: &mut [Entry]) -> io::Result<()> {
    entries.sort_unstable();
    let rest = entries
        .iter()
        .flat_map(|e| [e.inode, e.name, e.changed, e.mark]);
    let rest: Vec<u64> = rest.collect();
    let words = [&[MAGIC, sum(MAGIC, &rest)], &rest[..]].concat();
    file::replace(path, &bytes(&words))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["a:net1.json", "b:net1.json", "c:net1.json"];

    /// A network with three records, and the marks of the first two.
    fn network() -> (tempfile::TempDir, Vec<Entry>) {
        let directory = tempfile::tempdir().unwrap();
        for name in NAMES {
            fs::write(directory.path().join(name), name).unwrap();
        }
        let found = unknown(directory.path(), &[], &mut Vec::new()).unwrap();
        let found = found.into_iter().take(2).zip([11, 12]);
        let mut known: Vec<Entry> = found.map(|((_, e), mark)| Entry { mark, ..e }).collect();
        known.sort();
        (directory, known)
    }

    fn names_of_unknown(directory: &Path, known: &[Entry]) -> Vec<String> {
        let found = unknown(directory, known, &mut Vec::new()).unwrap();
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        found.iter().map(|(path, _)| name(path)).collect()
    }

    #[test]
    fn a_record_is_known_until_another_file_has_its_name() {
        let (directory, known) = network();
        let directory = directory.path();
        assert_eq!(names_of_unknown(directory, &known), NAMES[2..]);
        file::replace(&directory.join(NAMES[0]), b"another").unwrap();
        assert_eq!(names_of_unknown(directory, &known), [NAMES[0], NAMES[2]]);
        fs::rename(directory.join(NAMES[1]), directory.join("d:net1.json")).unwrap();
        let unknown = names_of_unknown(directory, &known);
        assert_eq!(unknown, [NAMES[0], NAMES[2], "d:net1.json"]);
    }

    #[test]
    fn a_file_that_is_cut_or_damaged_has_no_entries() {
        let (directory, mut known) = network();
        let path = directory.path().join(".marks");
        write(&path, &mut known).unwrap();
        assert_eq!(read(&path), known);
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(read(&path), [], "{cut} bytes");
            let mut damaged = whole.clone();
            damaged[cut] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(read(&path), [], "byte {cut}");
        }
    }
}
