//! Findings: texts about what the agent could not do, such as releasing an address that a pod
//! still uses. Functions return their findings. The agent finds the same each time it looks,
//! and logs a finding when it is new.

use std::collections::HashSet;

/// How many findings are remembered. With more of them, findings are logged again.
const MOST: usize = 1024;

/// The findings that have been logged.
#[derive(Debug, Default)]
pub(crate) struct News {
    said: HashSet<String>,
}

impl News {
    /// The findings that have not been logged yet. The caller logs them now.
    pub(crate) fn among(&mut self, findings: Vec<String>) -> Vec<String> {
        let mut new = findings;
        new.retain(|finding| {
            if self.said.len() >= MOST {
                self.said.clear();
            }
            self.said.insert(finding.clone())
        });
        new
    }
}

/// The findings of the last look, for a caller that finds all of them each time: a finding that
/// disappears and comes again is new.
#[derive(Debug, Default)]
pub(crate) struct LastLook {
    found: Vec<String>,
}

impl LastLook {
    /// Remembers these findings instead of the ones before, and returns those that are new.
    pub(crate) fn replace(&mut self, findings: Vec<String>) -> Vec<String> {
        let before = std::mem::replace(&mut self.found, findings);
        let is_new = |finding: &&String| !before.contains(finding);
        self.found.iter().filter(is_new).cloned().collect()
    }

    /// Remembers these findings in addition to the ones before, for a look that was not
    /// complete, and returns those that are new.
    pub(crate) fn add(&mut self, findings: Vec<String>) -> Vec<String> {
        let mut new = findings;
        new.retain(|finding| !self.found.contains(finding));
        self.found.extend(new.iter().cloned());
        new
    }

    /// Whether nothing was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(numbers: impl Iterator<Item = usize>) -> Vec<String> {
        numbers.map(|number| format!("finding {number}")).collect()
    }

    #[test]
    fn a_finding_is_reported_once() {
        let mut news = News::default();
        let twice = texts([1, 2, 1].into_iter());
        assert_eq!(news.among(twice), texts(1..=2));
        assert_eq!(news.among(texts(2..=3)), texts(3..=3));
        assert_eq!(news.among(texts(1..=3)), texts(0..0));
        assert_eq!(News::default().among(texts(1..=1)), texts(1..=1));
    }

    #[test]
    fn a_finding_that_returns_is_reported_again() {
        let mut last = LastLook::default();
        assert_eq!(last.replace(texts(1..=2)), texts(1..=2));
        assert_eq!(last.replace(texts(2..=3)), texts(3..=3));
        assert_eq!(last.replace(texts(1..=2)), texts(1..=1));
        assert!(!last.is_empty());
        assert_eq!(last.replace(texts(0..0)), texts(0..0));
        assert!(last.is_empty());
    }

    #[test]
    fn a_look_that_is_not_complete_forgets_nothing() {
        let mut last = LastLook::default();
        assert_eq!(last.replace(texts(1..=2)), texts(1..=2));
        assert_eq!(last.add(texts(2..=3)), texts(3..=3));
        assert_eq!(last.replace(texts(1..=3)), texts(0..0));
    }

    #[test]
    fn more_findings_than_are_remembered_are_said_again_and_take_no_memory() {
        let mut news = News::default();
        assert_eq!(news.among(texts(0..MOST)).len(), MOST);
        assert_eq!(news.among(texts(MOST..MOST + 1)).len(), 1);
        assert_eq!(news.among(texts(0..1)).len(), 1);
        assert_eq!(news.said.len(), 2);
    }
}
