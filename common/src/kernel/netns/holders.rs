//! Whether something keeps a network namespace alive, independent of paths, or whether another
//! namespace has its number by now.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::NetNs;
use super::presence::{NetNsId, Presence, ProcessId};
use super::search::{
    Held, NETNS, PROCESSES, Seen, look_at_all, numbered, sees_all_processes, threads, tolerant,
    too_many,
};
use crate::error::{Error, ErrorCode};

/// What keeps the namespaces of the node alive. It is collected at the first question and
/// then reused: a namespace that had ended then cannot exist again.
#[derive(Debug, Default)]
pub struct Holders {
    seen: OnceCell<Result<Seen, Error>>,
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
        if matches!(self.seen()?, Seen::TooMany) {
            return Ok(None);
        }
        let held = self.of(id)?;
        Ok(held.map(|held| held.map(Held::paths).unwrap_or_default()))
    }

    /// The namespaces that processes are in: the inode number of each, and a path for each of
    /// the processes. A process is where its first thread is: others enter namespaces for a
    /// moment, as plugins do. `None` when the processes of the node are not visible.
    ///
    /// # Errors
    /// Code 8 when the processes of the node cannot be examined.
    pub fn inhabited(&self) -> Result<Option<HashMap<u64, Vec<PathBuf>>>, Error> {
        let Some(all) = self.all()? else {
            return Ok(None);
        };
        let inhabited = all.iter().map(|(number, held)| {
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
        let of_number = self.all()?.map(|all| all.get(&id.inode));
        Ok(of_number.map(|held| held.filter(|held| !held.is_of_another(id))))
    }

    /// What keeps each namespace alive, by its inode number; `None` when the processes of the node
    /// are not visible.
    fn all(&self) -> Result<Option<&HashMap<u64, Held>>, Error> {
        match self.seen()? {
            Seen::All(held) => Ok(Some(held)),
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

impl Held {
    fn paths(&self) -> Vec<PathBuf> {
        let inside = self.inside.iter().map(|thread| thread.join(NETNS));
        self.made.values().cloned().chain(inside).collect()
    }

    /// The cookie of the namespace that has the number of `id`.
    fn cookie(&self, id: &NetNsId) -> Option<u64> {
        self.paths().iter().find_map(|path| {
            let netns = NetNs::open_held(path, id.inode).ok()??;
            netns.cookie()
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
