//! A cache that says which records of a plugin are about a device, without reading each of them.
//! Each record has a *mark*, a number that is computed from its device. A file beside the
//! records keeps the marks of those that were read before.
//!
//! The file is only a cache. An entry is valid for the record with the same name and inode,
//! because a record is never changed in place but replaced. All other records are read; without
//! a valid file of this version, every record is. No process waits for the file, and no command
//! fails because of it. If an attachment is made again under the names of one that has ended,
//! its record can get the same inode and match the old entry. So a caller that does not find a
//! device by the marks has to read the records.

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
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
const MAGIC: u64 = u64::from_le_bytes(*b"eni-cni\x01");
/// Words of an entry.
const ENTRY: usize = 3;
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
    mark: u64,
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
        let name = sum_of_text(of_network, file);
        let is_before = |entry: &Entry| (entry.inode, entry.name) < (inode, name);
        let next = known.get(known.partition_point(is_before));
        match next.filter(|entry| (entry.inode, entry.name) == (inode, name)) {
            Some(entry) => entries.push(*entry),
            None => {
                let path = network.join(std::ffi::OsStr::from_bytes(file));
                let mark = 0;
                unknown.push((path, Entry { inode, name, mark }));
            }
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
    let entry = |[inode, name, mark]: &[u64; ENTRY]| Entry {
        inode: *inode,
        name: *name,
        mark: *mark,
    };
    chunks.iter().map(entry).collect()
}

fn write(path: &Path, entries: &mut [Entry]) -> io::Result<()> {
    entries.sort_unstable();
    let rest = entries.iter().flat_map(|e| [e.inode, e.name, e.mark]);
    let rest: Vec<u64> = rest.collect();
    let words = [&[MAGIC, sum(MAGIC, &rest)], &rest[..]].concat();
    file::replace(path, &bytes(&words))
}

#[cfg(test)]
mod tests {
    use std::fs;

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
