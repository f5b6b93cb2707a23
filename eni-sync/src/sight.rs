//! Whether the agent sees the namespaces of pods. The mounts of a container can lose the
//! connection to those of the node: what runtimes mount from then on is an empty file here.
//! A new container sees all of it, so the agent ends to be started anew.

use std::collections::HashSet;
use std::path::PathBuf;

use common::error::{Error, ErrorCode, Result};

use crate::living::Living;

/// The names at which no namespace is visible, from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    /// Those of the first look: a new container would not see more.
    from_the_beginning: Option<HashSet<PathBuf>>,
    before: HashSet<PathBuf>,
}

impl Sight {
    /// Notes what the next look has shown.
    ///
    /// # Errors
    /// Code 8 when a namespace that came after the agent's start was not visible the last
    /// time either: a runtime that is about to mount it needs less time. Every agent sees
    /// at least two looks, so how often it is started anew has a bound.
    pub(crate) fn note(&mut self, living: &Living) -> Result<()> {
        let hidden: HashSet<PathBuf> = living.hidden_names().cloned().collect();
        let known = self
            .from_the_beginning
            .get_or_insert_with(|| hidden.clone());
        // A name that has gone, or leads to a namespace, can come again and be hidden then.
        known.retain(|path| hidden.contains(path));
        let mut new = hidden.iter().filter(|path| !known.contains(*path));
        let blind = new.find(|path| self.before.contains(*path)).cloned();
        self.before = hidden;
        match blind {
            None => Ok(()),
            Some(path) => {
                let msg =
                    format!("the agent does not see the namespaces of new pods, such as {path:?}");
                let details =
                    "its mounts are no longer those of the node: it ends, to be started anew";
                Err(Error::new(ErrorCode::NETNS, msg).with_details(details))
            }
        }
    }
}
