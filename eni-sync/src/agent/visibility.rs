//! Whether the agent sees the namespaces of pods. The mounts of a container can become detached
//! from those of the node: what runtimes mount from then on is an empty file in the container.
//! A new container sees all of it, so the agent ends in order to be restarted.

use std::collections::HashSet;
use std::path::PathBuf;

use common::error::{Error, ErrorCode, Result};

/// The names at which no namespace is visible, compared from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct Visibility {
    /// The names that have been hidden since the first look: a new container would not see
    /// more.
    from_the_beginning: Option<HashSet<PathBuf>>,
    before: HashSet<PathBuf>,
}

impl Visibility {
    /// Notes the names at which the current look shows no namespace.
    ///
    /// # Errors
    /// Code 8 when a namespace that appeared after the agent's start was hidden at the last
    /// look too: a runtime that is about to mount it needs less time. The error needs two
    /// looks, which limits how often the agent is restarted.
    pub(crate) fn note(&mut self, hidden: HashSet<PathBuf>) -> Result<()> {
        let known = self
            .from_the_beginning
            .get_or_insert_with(|| hidden.clone());
        // A name that is not hidden any more may appear again and be hidden then.
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
                    "its mounts are no longer those of the node: it ends so that it is restarted";
                Err(Error::new(ErrorCode::NETNS, msg).with_details(details))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> HashSet<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    /// Which of the looks says that the agent is blind, if one does.
    fn blind(looks: &[&[&str]]) -> Option<usize> {
        let mut sight = Visibility::default();
        looks
            .iter()
            .position(|hidden| sight.note(names(hidden)).is_err())
    }

    #[test]
    fn a_name_that_is_hidden_from_the_beginning_is_no_reason_to_start_anew() {
        assert_eq!(blind(&[&["a"], &["a"], &["a"], &["a"]]), None);
        assert_eq!(blind(&[&[], &[], &[]]), None);
    }

    #[test]
    fn a_new_name_that_is_hidden_at_two_looks_in_a_row_is_one_and_is_named() {
        assert_eq!(blind(&[&["a"], &["a", "b"], &["a", "b"]]), Some(2));
        assert_eq!(blind(&[&[], &["b"], &["b"]]), Some(2));
        let mut sight = Visibility::default();
        sight.note(names(&[])).unwrap();
        sight.note(names(&["/run/netns/b"])).unwrap();
        let error = sight.note(names(&["/run/netns/b"])).unwrap_err();
        assert_eq!(error.code, ErrorCode::NETNS);
        assert!(error.msg.contains("/run/netns/b"), "{error}");
    }

    #[test]
    fn a_name_that_a_runtime_is_about_to_mount_is_none() {
        assert_eq!(blind(&[&[], &["b"], &["c"], &["d"], &[]]), None);
        assert_eq!(blind(&[&[], &["b"], &[], &["b"], &[]]), None);
    }

    #[test]
    fn a_name_of_the_beginning_that_was_visible_since_counts_when_it_is_hidden_again() {
        assert_eq!(blind(&[&["a"], &[], &["a"], &["a"]]), Some(3));
    }

    #[test]
    fn an_agent_sees_two_looks_at_least() {
        assert_eq!(blind(&[&["a"], &["a", "b"]]), None);
    }
}
