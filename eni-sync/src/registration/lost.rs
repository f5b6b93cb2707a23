//! Which of what has come to an ENI EC2 has chosen in an answer that was lost. Descriptions and
//! metadata lag behind EC2, each by another time, and others assign addresses and prefixes as well,
//! so no single source decides early, and never more than EC2 was asked for is taken. Pure.

use std::collections::HashSet;
use std::net::IpAddr;

use common::address::Cidr;

use crate::ledger::Timestamp;

/// What is known beside a description when it is searched for lost answers.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// When EC2 was asked for the description.
    pub(crate) at: Timestamp,
    /// The addresses that the metadata show, if they answer.
    pub(crate) addresses: HashSet<IpAddr>,
    /// The prefixes that they show.
    pub(crate) prefixes: Vec<Cidr>,
    /// The addresses of unknown prefixes that somebody has already; `None` when that cannot be found
    /// out.
    pub(crate) occupied: Option<Vec<IpAddr>>,
}

/// What is known about a request whose answer was lost, at the time of a description.
#[derive(Debug)]
pub(crate) struct Evidence<T> {
    /// What the description shows, and no source has shown before the request.
    pub(crate) described: Vec<T>,
    /// Those of the metadata.
    pub(crate) listed: Vec<T>,
    /// What one source has shown before the request, and another one has denied: it may have been
    /// there, or have left long ago and come again.
    pub(crate) doubtful: Vec<T>,
    /// How many EC2 was asked for, without those that are known by now.
    pub(crate) count: usize,
    /// Whether the description certainly shows all that EC2 has done.
    pub(crate) is_over: bool,
}

/// What follows from it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict<T> {
    /// EC2 has chosen these. The others may be its choice or not: a later description tells.
    Chosen {
        /// What EC2 has chosen.
        these: Vec<T>,
        /// What is left to a later description.
        undecided: Vec<T>,
    },
    /// There are more than EC2 was asked for, so somebody else has assigned some of these.
    Mixed(Vec<T>),
}

/// What EC2 has chosen. Before the end, the metadata must show it as well.
pub(crate) fn decide<T: Copy + PartialEq>(evidence: Evidence<T>) -> Verdict<T> {
    let Evidence {
        described,
        listed,
        doubtful,
        count,
        is_over,
    } = evidence;
    let is_too_much = described.len() > count || listed.len() > count;
    let (these, undecided) = match is_over {
        true if described.len() > count => return Verdict::Mixed(described),
        true => (described, Vec::new()),
        false if is_too_much => (Vec::new(), described),
        false => described
            .into_iter()
            .partition(|one| listed.contains(one) && !doubtful.contains(one)),
    };
    Verdict::Chosen { these, undecided }
}

/// The text about addresses or prefixes of which only some are EC2's answer.
pub(crate) fn mixed(eni: &str, found: &[impl ToString]) -> String {
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    format!(
        "EC2's answer for {eni} was lost, and more have come to it since than EC2 was asked for, so \
         somebody else has assigned some of {}: all of them stay",
        found.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(described: &[u8], listed: &[u8], count: usize) -> Evidence<u8> {
        Evidence {
            described: described.to_vec(),
            listed: listed.to_vec(),
            doubtful: Vec::new(),
            count,
            is_over: false,
        }
    }

    fn chosen(these: &[u8], undecided: &[u8]) -> Verdict<u8> {
        Verdict::Chosen {
            these: these.to_vec(),
            undecided: undecided.to_vec(),
        }
    }

    #[test]
    fn what_both_sources_show_is_chosen_at_once() {
        assert_eq!(decide(evidence(&[6], &[6], 1)), chosen(&[6], &[]));
        assert_eq!(decide(evidence(&[6, 7], &[6], 2)), chosen(&[6], &[7]));
    }

    #[test]
    fn what_only_a_description_shows_is_chosen_when_it_is_younger_than_the_request() {
        let one = || evidence(&[6], &[], 1);
        assert_eq!(decide(one()), chosen(&[], &[6]));
        let over = Evidence {
            is_over: true,
            ..one()
        };
        assert_eq!(decide(over), chosen(&[6], &[]));
    }

    #[test]
    fn of_more_than_ec2_was_asked_for_nothing_is_chosen() {
        for (described, listed) in [(vec![6, 77], vec![6]), (vec![77], vec![6, 77])] {
            let mixed = evidence(&described, &listed, 1);
            assert_eq!(decide(mixed), chosen(&[], &described));
        }
        let over = Evidence {
            is_over: true,
            ..evidence(&[6, 77], &[6], 1)
        };
        assert_eq!(decide(over), Verdict::Mixed(vec![6, 77]));
    }

    #[test]
    fn what_may_have_been_there_before_is_left_to_a_description_that_is_younger() {
        let doubtful = |is_over| Evidence {
            doubtful: vec![6],
            is_over,
            ..evidence(&[6], &[6], 1)
        };
        assert_eq!(decide(doubtful(false)), chosen(&[], &[6]));
        assert_eq!(decide(doubtful(true)), chosen(&[6], &[]));
    }
}
