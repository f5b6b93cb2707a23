//! Whether something keeps a network namespace alive, independent of paths, or whether another
//! namespace has its number by now.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::presence::{NetNsId, Presence, ProcessId};
use super::search::{
    Held, Inside, NETNS, PROCESSES, Seen, look_at_all, look_at_mounts, look_closely, numbered,
    sees_all_processes, threads, tolerant, too_many,
};
use super::{NetNs, Nsid};
use crate::error::{Error, ErrorCode};

/// What is said of a namespace that the kernel has not ended, and nothing else is known of.
pub const STILL_THERE: &str = "the kernel still has it: a process or a socket may keep it that cannot \
                           be seen from here";

/// Who has the number (nsid) of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bearer {
    /// Another namespace or none, or the kernel does not tell.
    NotIt,
    /// It has this number itself: every other namespace of the node that can be entered was asked.
    Itself(i32),
    /// It or another namespace that cannot be examined has this number.
    Unknown(i32),
}

/// What keeps the namespaces of the node alive. It is collected at the first question and
/// then reused: a namespace that had ended then cannot exist again.
#[derive(Debug, Default)]
pub struct Holders {
    seen: OnceCell<Result<Seen, Error>>,
    /// The numbers of these namespaces.
    numbers: OnceCell<Numbers>,
    /// The same as `seen`, with what each single thread has open.
    seen_closely: OnceCell<Result<Seen, Error>>,
}

/// The numbers (nsid) of the namespaces that a search has found.
#[derive(Debug, Default)]
struct Numbers {
    /// The inode number of each namespace that has an nsid, by that.
    inodes: HashMap<i32, u64>,
    /// Whether each namespace could be asked for its nsid.
    is_complete: bool,
}

impl Holders {
    /// Whether a namespace exists of which no path is known any more. `path` led to it.
    pub(super) fn presence(&self, id: &NetNsId, path: &str) -> Presence {
        let is_taken = match id.is_taken() {
            Ok(is_taken) => is_taken,
            Err(error) => return Presence::Unknown(error),
        };
        if self.is_over(id, is_taken) {
            return Presence::Ended;
        }
        let why = match self.of(id) {
            Ok(Some(Some(held))) => held.describe(),
            Ok(Some(None)) => STILL_THERE.to_owned(),
            Ok(None) if is_taken.is_some() => STILL_THERE.to_owned(),
            // The path was a mount of the runtime, which removes it at the end of the
            // container.
            Ok(None) if id.process.is_none() && !path.starts_with(PROCESSES) => {
                return Presence::Ended;
            }
            Ok(None) => "the processes of the node are not visible".to_owned(),
            Err(error) => return Presence::Unknown(error),
        };
        let msg = format!("netns {path:?} may exist without its path");
        Presence::Unknown(Error::new(ErrorCode::NETNS, msg).with_details(why))
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
    /// Code 8 when a process cannot be examined, 11 when the kernel cannot be asked now.
    pub fn paths_to(&self, id: &NetNsId) -> Result<Option<Vec<PathBuf>>, Error> {
        if id.is_gone() {
            return Ok(Some(Vec::new()));
        }
        if matches!(self.seen()?, Seen::TooMany) {
            return Ok(None);
        }
        match self.of(id)? {
            Some(None) if self.number_of(id)?.is_some() => self.paths_by_threads(id).map(Some),
            held => Ok(held.map(|held| held.map(Held::paths).unwrap_or_default())),
        }
    }

    /// The same for a namespace that the kernel still has although a search has not found it: what
    /// each single thread has open is looked at, too, unless there is too much of that.
    fn paths_by_threads(&self, id: &NetNsId) -> Result<Vec<PathBuf>, Error> {
        let Seen::All(held) = self.seen_closely()? else {
            return Ok(Vec::new());
        };
        let held = held.get(&id.inode).filter(|held| !held.is_of_another(id));
        Ok(held.map(Held::paths).unwrap_or_default())
    }

    /// The namespaces that processes are in: the inode number of each, and a path for each of
    /// the processes. A process is where its first thread is, if that has not ended: others enter
    /// namespaces for a moment, as plugins do. `None` when the processes of the node are not visible.
    ///
    /// # Errors
    /// Code 8 when the processes of the node cannot be examined.
    pub fn inhabited(&self) -> Result<Option<HashMap<u64, Vec<PathBuf>>>, Error> {
        let Some(all) = self.all()? else {
            return Ok(None);
        };
        let inhabited = all.iter().map(|(number, held)| {
            let at_home = held.inside.iter().filter(|inside| inside.is_at_home);
            let paths = at_home.map(|inside| inside.thread.join(NETNS));
            (*number, paths.collect::<Vec<PathBuf>>())
        });
        let inhabited = inhabited.filter(|(_, paths)| !paths.is_empty());
        Ok(Some(inhabited.collect()))
    }

    /// Whether the processes of the node are visible.
    pub fn are_visible(&self) -> bool {
        matches!(self.seen(), Ok(Seen::All(_)))
    }

    /// Whether the namespace `id` has certainly ended, whatever path led to it: the kernel says so,
    /// or the processes of the node are visible, and none of them keeps it alive.
    pub fn none_of(&self, id: &NetNsId) -> bool {
        let is_taken = id.is_taken();
        is_taken.is_ok_and(|is_taken| self.is_over(id, is_taken))
    }

    /// The number by which the kernel still has the namespace `id`. `None` when that has ended, when
    /// another one has its number now, and when the kernel does not tell.
    ///
    /// # Errors
    /// Code 11 when the kernel cannot be asked now.
    pub fn number_of(&self, id: &NetNsId) -> Result<Option<i32>, Error> {
        let is_taken = id.is_taken()? == Some(true);
        let nsid = id
            .nsid
            .filter(|_| is_taken && !self.is_number_of_another(id));
        Ok(nsid.map(|nsid| nsid.number))
    }

    /// Who has the number of the namespace `id`, into which no path leads that a search has found.
    ///
    /// # Errors
    /// Code 8 when a process cannot be examined, 11 when the kernel cannot be asked now.
    pub fn bearer_of_number(&self, id: &NetNsId) -> Result<Bearer, Error> {
        let Some(number) = self.number_of(id)? else {
            return Ok(Bearer::NotIt);
        };
        if !matches!(self.seen()?, Seen::All(_)) {
            return Ok(Bearer::Unknown(number));
        }
        let Seen::All(held) = self.seen_closely()? else {
            return Ok(Bearer::Unknown(number));
        };
        let numbers = Numbers::of(held);
        let is_of_another = || {
            held.get(&id.inode)
                .is_some_and(|held| held.is_of_another(id))
        };
        Ok(match numbers.inodes.get(&number) {
            Some(inode) if *inode != id.inode || is_of_another() => Bearer::NotIt,
            None if numbers.is_complete && !held.contains_key(&id.inode) => Bearer::Itself(number),
            _ => Bearer::Unknown(number),
        })
    }

    /// The same, where a namespace has the number of `id` now if `is_taken`.
    fn is_over(&self, id: &NetNsId, is_taken: Option<bool>) -> bool {
        match is_taken {
            Some(true) => self.is_number_of_another(id),
            Some(false) => true,
            None => matches!(self.of(id), Ok(Some(None))),
        }
    }

    /// Whether the nsid that the kernel had given to the namespace `id` is that of another
    /// namespace now.
    fn is_number_of_another(&self, id: &NetNsId) -> bool {
        let Ok(Seen::All(held) | Seen::Hidden(held)) = self.seen() else {
            return false;
        };
        let numbers = self.numbers.get_or_init(|| Numbers::of(held));
        let now = id.nsid.and_then(|nsid| numbers.inodes.get(&nsid.number));
        now.is_some_and(|inode| {
            let is_same_inode = *inode == id.inode;
            !is_same_inode || held.get(inode).is_some_and(|held| held.is_of_another(id))
        })
    }

    /// What keeps the namespace `id` alive, or one that may be it: nothing in the inner option.
    /// The outer one is `None` when the processes of the node are not visible.
    fn of(&self, id: &NetNsId) -> Result<Option<Option<&Held>>, Error> {
        let of_number = self.all()?.map(|all| all.get(&id.inode));
        Ok(of_number.map(|held| held.filter(|held| !held.is_of_another(id))))
    }

    /// What keeps each namespace alive, by its inode number; `None` when the processes of the node
    /// are not visible.
    fn all(&self) -> Result<Option<&HashMap<u64, Held>>, Error> {
        match self.seen()? {
            Seen::All(held) => Ok(Some(held)),
            Seen::Hidden(_) => Ok(None),
            Seen::TooMany => Err(unsearchable(&too_many())),
        }
    }

    fn seen(&self) -> Result<&Seen, Error> {
        let seen = self.seen.get_or_init(Self::collect).as_ref();
        seen.map_err(Clone::clone)
    }

    fn seen_closely(&self) -> Result<&Seen, Error> {
        let look = || look_closely().map_err(|cause| unsearchable(&cause));
        let seen = self.seen_closely.get_or_init(look).as_ref();
        seen.map_err(Clone::clone)
    }

    /// Examines every process of the node.
    fn collect() -> Result<Seen, Error> {
        let outcome = sees_all_processes().and_then(|is_first| match is_first {
            true => look_at_all(),
            false => look_at_mounts(),
        });
        let outcome = match outcome {
            // A capability is missing, or a security module does not permit it.
            Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => look_at_mounts(),
            outcome => outcome,
        };
        outcome.map_err(|cause| unsearchable(&cause))
    }
}

fn unsearchable(cause: &io::Error) -> Error {
    let msg = "failed to look for the holders of a netns";
    Error::new(ErrorCode::NETNS, msg).because(cause)
}

impl Numbers {
    fn of(held: &HashMap<u64, Held>) -> Self {
        let mut numbers = Self {
            is_complete: true,
            ..Self::default()
        };
        for (inode, held) in held {
            match held.open(*inode).map(|netns| Nsid::find(&netns)) {
                Some(Ok(Some(nsid))) => drop(numbers.inodes.insert(nsid.number, *inode)),
                Some(Ok(None)) => {}
                Some(Err(_)) | None => numbers.is_complete = false,
            }
        }
        numbers
    }
}

impl Held {
    fn paths(&self) -> Vec<PathBuf> {
        let inside = self.inside.iter().map(|inside| inside.thread.join(NETNS));
        self.made.values().cloned().chain(inside).collect()
    }

    /// The namespace, which has this inode number.
    fn open(&self, inode: u64) -> Option<NetNs> {
        let mut paths = self.paths().into_iter();
        paths.find_map(|path| NetNs::open_held(&path, inode).ok()?)
    }

    /// What keeps it alive.
    fn describe(&self) -> String {
        match self.inside.first() {
            Some(Inside { thread, .. }) => {
                let thread = thread.display();
                format!("process {thread} is in it, or in one of its number")
            }
            None => "it is mounted or open elsewhere".to_owned(),
        }
    }

    /// Whether the number belongs to another namespace now. The cookie tells, or else the inodes
    /// that are mounted or open: they are not the one of `id`, which a mount or a descriptor had
    /// kept. If a namespace was kept by processes only, the kernel makes a new inode for it as
    /// well; but then a process inside is older than that inode, unless the older ones have ended
    /// since.
    fn is_of_another(&self, id: &NetNsId) -> bool {
        let cookie = |known| Some((known, self.open(id.inode)?.cookie()?));
        if let Some((known, cookie)) = id.cookie.and_then(cookie) {
            return known != cookie;
        }
        let Some(made) = id.made else {
            return false;
        };
        let is_younger = |than| self.inside.iter().all(|one| is_younger(&one.thread, than));
        let newest = self.made.keys().max();
        newest.is_some_and(|newest| !self.made.contains_key(&made) && is_younger(*newest))
    }
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
            nsid: None,
        };
        let holders = Holders {
            seen: OnceCell::from(Ok(Seen::TooMany)),
            ..Holders::default()
        };
        let presence = holders.presence(&id, "/run/netns/c1");
        let error = presence.is_living().unwrap_err();
        assert!(error.details.contains("more than 262144"), "{error:?}");
        assert_eq!(holders.path_to(&id).unwrap_err(), error);
        assert_eq!(holders.paths_to(&id), Ok(None));
        assert!(!holders.none_of(&id));
    }
}
