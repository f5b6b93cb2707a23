//! Finds what keeps the network namespaces of the node alive, independent of paths:
//! processes and their threads, mounts in the mount namespace of any thread, and open
//! descriptors. Not found are a socket that was passed to a process in another namespace, a
//! mount in a mount namespace without processes, and a descriptor in a message that was not
//! received yet. On a kernel before 6.2 also the descriptors that a thread has for itself.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, makedev, statx};

use super::NetNs;
use super::presence::{KIND, NetNsId, Presence, ProcessId, leads_nowhere, time};
use crate::error::{Error, ErrorCode};

/// Where the kernel shows processes.
pub const PROCESSES: &str = "/proc";
const OWN: &str = "/proc/self";
/// A namespace that always exists, to get the device of the namespace file system.
const OWN_NETNS: &str = "/proc/self/ns/net";
/// The first process of the machine. It does not belong to a container, and a security
/// module may protect it.
const FIRST: &str = "/proc/1";
/// The network namespace of a process or a thread, in its directory.
const NETNS: &str = "ns/net";
/// The PID namespace of the process itself.
const OWN_PIDS: &str = "/proc/self/ns/pid";
/// How many mounts, threads and descriptors are examined at most, which takes less than a second. If
/// there are more, it is unknown which namespaces have ended.
const MOST_LOOKS: usize = 1 << 18;
/// The inode of the machine's initial PID namespace. Source: `PROC_PID_INIT_INO` of Linux.
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// What keeps the namespaces of the node alive. It is collected at the first question and
/// then reused: a namespace that had ended then cannot exist again.
#[derive(Debug, Default)]
pub struct Holders {
    seen: OnceCell<Result<Seen, Error>>,
}

/// What a search for all holders has found.
#[derive(Debug)]
enum Seen {
    /// Everything, by the inode number of the namespace.
    All(HashMap<u64, Held>),
    /// The processes of the node are not visible.
    Hidden,
    /// There is too much to examine.
    TooMany,
}

/// What keeps one namespace alive.
#[derive(Debug, Default)]
struct Held {
    /// The threads inside it; of each process only the one that has started first.
    inside: Vec<PathBuf>,
    /// The creation times of the inodes that mounts and descriptors lead to, in nanoseconds
    /// since 1970, and a path to each inode.
    made: HashMap<i64, PathBuf>,
}

impl Holders {
    /// Whether a namespace exists of which no path is known any more. `path` led to it.
    pub(super) fn presence(&self, id: &NetNsId, path: &str) -> Presence {
        let unknown = |why: String| {
            let msg = format!("netns {path:?} may exist without its path");
            Presence::Unknown(Error::new(ErrorCode::NETNS, msg).with_details(why))
        };
        let held = match self.of(id) {
            Ok(Some(held)) => held,
            // The path was a mount of the runtime, which removes it at the end of the
            // container.
            Ok(None) if id.process.is_none() && !path.starts_with(PROCESSES) => None,
            Ok(None) => return unknown("the processes of the node are not visible".to_owned()),
            Err(error) => return Presence::Unknown(error),
        };
        match held {
            None => Presence::Ended,
            Some(held) => unknown(match held.inside.first() {
                Some(process) => {
                    let process = process.display();
                    format!("process {process} is in it, or in one of its number")
                }
                None => "it is mounted or open elsewhere".to_owned(),
            }),
        }
    }

    /// A path to the namespace `id` by a mount or a descriptor, for a process that cannot use
    /// its recorded path.
    ///
    /// # Errors
    /// Code 8 when the processes of the node cannot be examined.
    pub fn path_to(&self, id: &NetNsId) -> Result<Option<PathBuf>, Error> {
        let Some(made) = id.made else {
            return Ok(None);
        };
        let held = self.of(id)?.flatten();
        Ok(held.and_then(|held| held.made.get(&made)).cloned())
    }

    /// Paths to the namespace `id`, or to one that has its number now and may be it: by mounts,
    /// descriptors and the processes inside. All of them lead to one namespace. `None` when it is
    /// unknown what keeps the namespaces of the node alive.
    ///
    /// # Errors
    /// Code 8 when a process cannot be examined.
    pub fn paths_to(&self, id: &NetNsId) -> Result<Option<Vec<PathBuf>>, Error> {
        let held = match self.seen()? {
            Seen::All(held) => held.get(&id.inode).filter(|held| !held.is_of_another(id)),
            Seen::Hidden | Seen::TooMany => return Ok(None),
        };
        Ok(Some(held.map(Held::paths).unwrap_or_default()))
    }

    /// The namespaces that processes are in: the inode number of each, and a path for each of
    /// the processes. A process is where its first thread is: others enter namespaces for a
    /// moment, as plugins do. `None` when the processes of the node are not visible.
    ///
    /// # Errors
    /// Code 8 when the processes of the node cannot be examined.
    pub fn inhabited(&self) -> Result<Option<HashMap<u64, Vec<PathBuf>>>, Error> {
        let seen = match self.seen()? {
            Seen::All(seen) => seen,
            Seen::Hidden => return Ok(None),
            Seen::TooMany => return Err(unsearchable(&too_many())),
        };
        let inhabited = seen.iter().map(|(number, held)| {
            let first = held.inside.iter().filter(|thread| is_first(thread));
            let paths = first.map(|thread| thread.join(NETNS));
            (*number, paths.collect::<Vec<PathBuf>>())
        });
        let inhabited = inhabited.filter(|(_, paths)| !paths.is_empty());
        Ok(Some(inhabited.collect()))
    }

    /// Whether the processes of the node are visible.
    pub fn are_visible(&self) -> bool {
        matches!(self.seen(), Ok(Seen::All(_)))
    }

    /// Whether the processes of the node are visible, and none of them keeps the namespace
    /// `id` alive.
    pub fn none_of(&self, id: &NetNsId) -> bool {
        matches!(self.of(id), Ok(Some(None)))
    }

    /// What keeps the namespace `id` alive, or one that may be it: nothing in the inner option.
    /// The outer one is `None` when the processes of the node are not visible.
    fn of(&self, id: &NetNsId) -> Result<Option<Option<&Held>>, Error> {
        match self.seen()? {
            Seen::All(held) => {
                let held = held.get(&id.inode);
                Ok(Some(held.filter(|held| !held.is_of_another(id))))
            }
            Seen::Hidden => Ok(None),
            Seen::TooMany => Err(unsearchable(&too_many())),
        }
    }

    fn seen(&self) -> Result<&Seen, Error> {
        let seen = self.seen.get_or_init(Self::collect).as_ref();
        seen.map_err(Clone::clone)
    }

    /// Examines every process of the node.
    fn collect() -> Result<Seen, Error> {
        let outcome = sees_all_processes().and_then(|is_first| match is_first {
            true => look_at_all(),
            false => Ok(Seen::Hidden),
        });
        match outcome {
            // A capability is missing, or a security module does not permit it.
            Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => Ok(Seen::Hidden),
            outcome => outcome.map_err(|cause| unsearchable(&cause)),
        }
    }
}

fn unsearchable(cause: &io::Error) -> Error {
    let msg = "failed to look for the holders of a netns";
    Error::new(ErrorCode::NETNS, msg).because(cause)
}

fn too_many() -> io::Error {
    io::Error::other(format!(
        "the node has more than {MOST_LOOKS} mounts, threads and open files"
    ))
}

fn look_at_all() -> io::Result<Seen> {
    let mut found = Found {
        device: fs::metadata(OWN_NETNS)?.dev(),
        ..Found::default()
    };
    match found.look_at_node() {
        Err(_) if found.looks > MOST_LOOKS => Ok(Seen::TooMany),
        outcome => outcome.map(|()| Seen::All(found.held)),
    }
}

impl Held {
    fn paths(&self) -> Vec<PathBuf> {
        let inside = self.inside.iter().map(|thread| thread.join(NETNS));
        self.made.values().cloned().chain(inside).collect()
    }

    /// The cookie of the namespace that has the number of `id`.
    fn cookie(&self, id: &NetNsId) -> Option<u64> {
        self.paths().iter().find_map(|path| {
            let netns = NetNs::open(path.to_str()?).ok()?;
            // A process can have left the namespace.
            let has_number = netns.outer_id().is_ok_and(|now| now.has_number_of(id));
            has_number.then(|| netns.cookie()).flatten()
        })
    }

    /// Whether the number belongs to another namespace now. The cookie tells, or else the inodes
    /// that are mounted or open: they are not the one of `id`, which a mount or a descriptor had
    /// kept. If a namespace was kept by processes only, the kernel makes a new inode for it as
    /// well; but then a process inside is older than that inode.
    fn is_of_another(&self, id: &NetNsId) -> bool {
        let cookies = id.cookie.and_then(|known| Some((known, self.cookie(id)?)));
        if let Some((known, cookie)) = cookies {
            return known != cookie;
        }
        let Some(made) = id.made else {
            return false;
        };
        let newest = self.made.keys().max();
        newest.is_some_and(|newest| {
            !self.made.contains_key(&made) && self.inside.iter().all(|one| is_younger(one, *newest))
        })
    }
}

/// Whether a thread is the first one of its process, which has its number.
fn is_first(thread: &Path) -> bool {
    let process = thread.ancestors().nth(2);
    process.is_some_and(|process| process.file_name() == thread.file_name())
}

/// Whether a process has certainly started after an inode was made.
fn is_younger(process: &Path, made: i64) -> bool {
    ProcessId::of(process).is_some_and(|process| process.is_younger_than(made))
}

/// Whether a process in the namespace that has the number of `id` now is older than the
/// inode that a path leads to, which was made at `made`. Then that is a new inode of the
/// same namespace, which was not mounted for a while.
///
/// # Errors
/// The reason why a process cannot be examined.
pub(super) fn was_kept_by_a_process(id: &NetNsId, made: i64) -> io::Result<bool> {
    if !sees_all_processes()? {
        return Ok(false);
    }
    for process in numbered(Path::new(PROCESSES))? {
        for thread in threads(&process)? {
            let inside = match tolerant(|| fs::metadata(thread.join(NETNS))) {
                // As for `Holders`: such a process does not belong to a container that is
                // visible.
                Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => continue,
                inside => inside?,
            };
            if inside.is_some_and(|inside| inside.ino() == id.inode) && !is_younger(&thread, made) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The results of the search so far.
#[derive(Default)]
struct Found {
    held: HashMap<u64, Held>,
    /// The device of the namespace file system.
    device: u64,
    /// The mount namespaces whose mounts were examined.
    views: HashSet<u64>,
    /// How many mounts, threads and descriptors were examined.
    looks: usize,
}

impl Found {
    fn look_at_node(&mut self) -> io::Result<()> {
        self.look_at_mounts(Path::new(OWN))?;
        for process in numbered(Path::new(PROCESSES))? {
            match self.look_at(&process) {
                Err(cause)
                    if cause.kind() == io::ErrorKind::PermissionDenied
                        && process == Path::new(FIRST) => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    fn look_at(&mut self, process: &Path) -> io::Result<()> {
        let is_empty = self.look_at_descriptors(process)? == 0;
        // The kernel lists threads in the order of their start.
        let mut numbers = HashSet::new();
        for thread in threads(process)? {
            if let Some(inside) = tolerant(|| fs::metadata(thread.join(NETNS)))?
                && numbers.insert(inside.ino())
            {
                let held = self.held.entry(inside.ino()).or_default();
                held.inside.push(thread.clone());
            }
            let view = tolerant(|| fs::metadata(thread.join("ns/mnt")))?;
            if view.is_some_and(|view| self.views.insert(view.ino())) {
                self.look_at_mounts(&thread)?;
            }
            self.count_look()?;
            // A process whose first thread has ended shows no descriptors, and a thread can have
            // its own.
            if is_empty || !shares_descriptors(process, &thread)? {
                self.look_at_descriptors(&thread)?;
            }
        }
        Ok(())
    }

    fn look_at_mounts(&mut self, process: &Path) -> io::Result<()> {
        let text = tolerant(|| fs::read(process.join("mountinfo")))?.unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines() {
            self.count_look()?;
            // The root of the mount, and where it is. Source: proc_pid_mountinfo(5).
            let mut words = line.split(' ').skip(3);
            let (Some(root), Some(place)) = (words.next(), words.next()) else {
                continue;
            };
            if root.starts_with(KIND) {
                self.pin(root, visible(process, place))?;
            }
        }
        Ok(())
    }

    /// Examines the descriptors of a thread, and returns how many there are.
    fn look_at_descriptors(&mut self, thread: &Path) -> io::Result<usize> {
        let descriptors = tolerant(|| numbered(&thread.join("fd")))?.unwrap_or_default();
        for descriptor in &descriptors {
            self.count_look()?;
            // The name does not show the kind of file: a descriptor that was opened through a
            // mount has the path of the mount as its name, and "/" after the mount was removed.
            let inode = tolerant(|| namespace_behind(descriptor, self.device))?.flatten();
            if let Some(inode) = inode {
                let held = self.held.entry(inode.stx_ino).or_default();
                let changed = inode.stx_ctime;
                let made = time(changed.tv_sec, changed.tv_nsec.into());
                let path = held.made.entry(made);
                path.or_insert_with(|| descriptor.clone());
            }
        }
        Ok(descriptors.len())
    }

    /// Counts a mount, a thread or a descriptor. Pods must not block other commands by having too many
    /// of them.
    fn count_look(&mut self) -> io::Result<()> {
        self.looks += 1;
        match self.looks > MOST_LOOKS {
            true => Err(too_many()),
            false => Ok(()),
        }
    }

    /// Notes that the namespace `name` is mounted, at `path` if that can be examined.
    fn pin(&mut self, name: &str, path: Option<PathBuf>) -> io::Result<()> {
        let number = name.trim_start_matches(KIND).trim_end_matches(']');
        let Ok(number) = number.parse::<u64>() else {
            return Ok(());
        };
        let held = self.held.entry(number).or_default();
        let Some(path) = path else { return Ok(()) };
        let inode = tolerant(|| fs::metadata(&path))?;
        // If another mount covers this one, it is the inode of that.
        if let Some(inode) = inode.filter(|inode| inode.ino() == number) {
            let made = super::presence::made(&inode);
            held.made.entry(made).or_insert(path);
        }
        Ok(())
    }
}

/// The path of a mount at `place` in the mount namespace of a process; `None` for that of a
/// container, where it may lead through a file system that never answers.
fn visible(process: &Path, place: &str) -> Option<PathBuf> {
    if process == Path::new(OWN) {
        return Some(place.into());
    }
    let root = Path::new(FIRST).join("root");
    let is_first = process.starts_with(FIRST);
    is_first.then(|| root.join(place.trim_start_matches('/')))
}

/// The threads of a process, in the order of their start; empty when it has ended.
fn threads(process: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(tolerant(|| numbered(&process.join("task")))?.unwrap_or_default())
}

/// How many descriptors a thread has; 0 on a kernel before 6.2, which does not count them.
fn open_files(thread: &Path) -> io::Result<u64> {
    Ok(tolerant(|| fs::metadata(thread.join("fd")))?.map_or(0, |found| found.len()))
}

/// Whether a thread seems to have the descriptors of its process: as many of them. Both numbers
/// change all the time in a busy process.
fn shares_descriptors(process: &Path, thread: &Path) -> io::Result<bool> {
    for _ in 0..3 {
        if open_files(process)? == open_files(thread)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a file is on the file system with this device, of which the file system's server is not
/// asked.
pub(super) fn is_on(file: &File, device: u64) -> io::Result<bool> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::EMPTY_PATH;
    let found = statx(file, "", flags, StatxFlags::empty())?;
    Ok(makedev(found.stx_dev_major, found.stx_dev_minor) == device)
}

/// The properties of the namespace that a descriptor refers to; `None` if it refers to something
/// else. `device` is that of the namespace file system. Other file systems, whose servers may
/// refuse or not answer, are asked for nothing but their device.
fn namespace_behind(descriptor: &Path, device: u64) -> io::Result<Option<Statx>> {
    let look = |wanted| statx(CWD, descriptor, AtFlags::STATX_DONT_SYNC, wanted);
    match look(StatxFlags::empty()) {
        Ok(found) if makedev(found.stx_dev_major, found.stx_dev_minor) == device => {
            Ok(Some(look(StatxFlags::BASIC_STATS)?))
        }
        Ok(_) => Ok(None),
        // Of a file of another file system this says nothing about namespaces.
        Err(_) if !may_be_namespace(descriptor) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether a descriptor may refer to a namespace, by its name.
fn may_be_namespace(descriptor: &Path) -> bool {
    fs::read_link(descriptor).map_or(true, |target| {
        let name = target.as_os_str().as_encoded_bytes();
        name == b"/" || name.starts_with(KIND.as_bytes())
    })
}

/// The entries of a directory whose names are numbers.
pub(crate) fn numbered(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The result of `look`; `None` when the process or its open file has disappeared
/// meanwhile. It is tried twice, because for a process that is ending the kernel reports a
/// missing permission at first.
fn tolerant<T>(look: impl Fn() -> io::Result<T>) -> io::Result<Option<T>> {
    match look().or_else(|_| look()) {
        Ok(found) => Ok(Some(found)),
        Err(cause) if leads_nowhere(&cause) => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// Whether this process is in the machine's initial PID namespace, whose `/proc` shows all
/// processes.
pub(super) fn sees_all_processes() -> io::Result<bool> {
    Ok(fs::metadata(OWN_PIDS)?.ino() == FIRST_PID_NAMESPACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_too_much_to_examine_has_no_namespace_that_has_ended() {
        let id = NetNsId {
            device: 4,
            inode: 7,
            made: Some(1),
            process: None,
            cookie: None,
        };
        let holders = Holders {
            seen: OnceCell::from(Ok(Seen::TooMany)),
        };
        let presence = holders.presence(&id, "/run/netns/c1");
        let error = presence.is_living().unwrap_err();
        assert!(error.details.contains("more than 262144"), "{error:?}");
        assert_eq!(holders.path_to(&id).unwrap_err(), error);
        assert_eq!(holders.paths_to(&id), Ok(None));
        assert!(!holders.none_of(&id));
    }
}
