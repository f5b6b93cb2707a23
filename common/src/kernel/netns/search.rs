//! Searches the node for what keeps network namespaces alive: processes and their threads, mounts in
//! the mount namespace of any thread, and open descriptors. Not found are a socket that was passed
//! to a process in another namespace, a mount in a mount namespace without processes, and a
//! descriptor in a message that was not received yet, nor what comes and goes while the search goes
//! on, such as processes that each start the next one and end. Of a thread that has descriptors for
//! itself they are only found where it does not have as many as its process, and on a kernel before
//! 6.2 never, unless the search is a close one.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, makedev, statx};

use super::presence::{KIND, leads_nowhere, made, time};

/// Where the kernel shows processes.
pub const PROCESSES: &str = "/proc";
const OWN: &str = "/proc/self";
/// A namespace that always exists, to get the device of the namespace file system.
const OWN_NETNS: &str = "/proc/self/ns/net";
/// The first process of the machine. It does not belong to a container, and a security
/// module may protect it.
const FIRST: &str = "/proc/1";
/// The network namespace of a process or a thread, in its directory.
pub(super) const NETNS: &str = "ns/net";
/// The PID namespace of the process itself.
const OWN_PIDS: &str = "/proc/self/ns/pid";
/// How many mounts, threads and descriptors are examined at most, which takes less than a second. If
/// there are more, it is unknown which namespaces have ended.
const MOST_LOOKS: usize = 1 << 18;
/// The inode of the machine's initial PID namespace. Source: `PROC_PID_INIT_INO` of Linux.
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// What a search for all holders has found.
#[derive(Debug)]
pub(super) enum Seen {
    /// Everything, by the inode number of the namespace.
    All(HashMap<u64, Held>),
    /// The processes of the node are not visible. What this process has mounted is here.
    Hidden(HashMap<u64, Held>),
    /// There is too much to examine.
    TooMany,
}

/// What keeps one namespace alive.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The threads inside it; of each process only the one that has started first.
    pub(super) inside: Vec<Inside>,
    /// The creation times of the inodes that mounts and descriptors lead to, in nanoseconds
    /// since 1970, and a path to each inode.
    pub(super) made: HashMap<i64, PathBuf>,
}

/// A thread in a namespace.
#[derive(Debug)]
pub(super) struct Inside {
    /// Its directory.
    pub(super) thread: PathBuf,
    /// Whether it is the first one of its process, or that has ended.
    pub(super) is_at_home: bool,
}

/// Examines the mounts of this process.
///
/// # Errors
/// The reason why they cannot be examined.
pub(super) fn look_at_mounts() -> io::Result<Seen> {
    let mut search = Search::begin()?;
    search.look_at_mounts(Path::new(OWN))?;
    Ok(Seen::Hidden(search.held))
}

/// Examines every process of the node.
///
/// # Errors
/// The reason why something cannot be examined.
pub(super) fn look_at_all() -> io::Result<Seen> {
    Search::begin()?.of_all()
}

/// The same with the descriptors of every thread, which takes longer.
///
/// # Errors
/// As for [`look_at_all`].
pub(super) fn look_closely() -> io::Result<Seen> {
    let search = Search {
        is_close: true,
        ..Search::begin()?
    };
    search.of_all()
}

pub(super) fn too_many() -> io::Error {
    io::Error::other(format!(
        "the node has more than {MOST_LOOKS} mounts, threads and open files"
    ))
}

/// The results of the search so far.
#[derive(Default)]
struct Search {
    held: HashMap<u64, Held>,
    /// The device of the namespace file system.
    device: u64,
    /// The mount namespaces whose mounts were examined.
    views: HashSet<u64>,
    /// How many mounts, threads and descriptors were examined.
    looks: usize,
    /// Whether each thread's descriptors are examined.
    is_close: bool,
}

impl Search {
    fn begin() -> io::Result<Self> {
        Ok(Self {
            device: fs::metadata(OWN_NETNS)?.dev(),
            ..Self::default()
        })
    }

    fn of_all(mut self) -> io::Result<Seen> {
        match self.look_at_node() {
            Err(_) if self.looks > MOST_LOOKS => Ok(Seen::TooMany),
            outcome => outcome.map(|()| Seen::All(self.held)),
        }
    }

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
        let (mut numbers, mut is_led) = (HashSet::new(), false);
        for thread in threads(process)? {
            let inside = tolerant(|| fs::metadata(thread.join(NETNS)))?;
            is_led |= inside.is_some() && is_first(process, &thread);
            if let Some(inside) = inside
                && numbers.insert(inside.ino())
            {
                let held = self.held.entry(inside.ino()).or_default();
                held.inside.push(Inside {
                    thread: thread.clone(),
                    is_at_home: !is_led || is_first(process, &thread),
                });
            }
            let view = tolerant(|| fs::metadata(thread.join("ns/mnt")))?;
            if view.is_some_and(|view| self.views.insert(view.ino())) {
                self.look_at_mounts(&thread)?;
            }
            self.count_look()?;
            // A process whose first thread has ended shows no descriptors, and a thread can have
            // its own.
            if is_empty || self.is_close || !shares_descriptors(process, &thread)? {
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
            held.made.entry(made(&inode)).or_insert(path);
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
pub(super) fn threads(process: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(tolerant(|| numbered(&process.join("task")))?.unwrap_or_default())
}

/// Whether a thread is the first one of its process, which has its number.
fn is_first(process: &Path, thread: &Path) -> bool {
    process.file_name() == thread.file_name()
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
pub(super) fn tolerant<T>(look: impl Fn() -> io::Result<T>) -> io::Result<Option<T>> {
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
