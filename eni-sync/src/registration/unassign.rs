//! Has AWS remove addresses from an ENI, normally by one call for all of them. If EC2 refuses
//! the call, this module finds out which addresses it does not remove, so that the others
//! leave.

use std::net::IpAddr;

use crate::vpc::ec2::{Description, OwnEni};
use crate::vpc::failure::{Failure, Kind};

/// How many calls may be made to find the addresses of a batch that EC2 does not remove: enough
/// for one of 256. The others are tried with the next batch.
const CALLS: usize = 16;

/// EC2's answer about an address.
#[derive(Debug)]
pub(crate) enum Answer {
    /// EC2 has removed it.
    Removed,
    /// It is not on the ENI, according to EC2.
    Absent,
    /// EC2 refuses to remove this address.
    Refused(Failure),
    /// EC2 was only asked for it together with an address that it refuses, or may refuse.
    Open(Failure),
}

/// The answers, by address.
pub(crate) type Answers = Vec<(IpAddr, Answer)>;

/// Removes addresses from one ENI.
pub(crate) struct Unassigner<'a> {
    own: &'a OwnEni<'a>,
    /// The ENI as it was a moment ago.
    eni: &'a Description,
    /// How many calls may still be made to find the refused addresses.
    calls: usize,
    answers: Answers,
}

impl<'a> Unassigner<'a> {
    /// An unassigner for `own`, which EC2 has shown as `eni`.
    pub(crate) fn new(own: &'a OwnEni<'a>, eni: &'a Description) -> Self {
        Self {
            own,
            eni,
            calls: CALLS,
            answers: Answers::new(),
        }
    }

    /// Removes addresses of one family. Returns the answers that EC2 has given, and the failure
    /// that kept the other addresses from being tried: [`Kind::NotOurs`] when the ENI has left
    /// this node meanwhile.
    pub(crate) fn unassign(mut self, addresses: &[IpAddr]) -> (Answers, Result<(), Failure>) {
        let is_shown = |address: &IpAddr| self.eni.secondary.contains(address);
        let (shown, doubtful): (Vec<_>, Vec<_>) = addresses.iter().partition(|a| is_shown(a));
        let done = self.remove(&shown).and_then(|()| self.look_for(&doubtful));
        (self.answers, done)
    }

    /// Removes addresses that were on the ENI a moment ago. If some are removed already,
    /// because an answer was lost or another user asked, AWS refuses the call, and the rest is
    /// requested again.
    fn remove(&mut self, shown: &[IpAddr]) -> Result<(), Failure> {
        let Some(failure) = self.ask(shown)? else {
            return Ok(());
        };
        let actual = self.own.look()?;
        let is_left = |address: &IpAddr| actual.has(*address);
        let (left, gone): (Vec<_>, Vec<_>) = shown.iter().partition(|a| is_left(a));
        if gone.is_empty() {
            return self.divide(&left, &failure);
        }
        self.note(&gone, || Answer::Removed);
        match self.ask(&left)? {
            Some(failure) => self.divide(&left, &failure),
            None => Ok(()),
        }
    }

    /// Finds the addresses that EC2 does not remove by halving `refused`, when no description
    /// shows the reason.
    fn divide(&mut self, refused: &[IpAddr], failure: &Failure) -> Result<(), Failure> {
        if refused.len() == 1 {
            self.note(refused, || Answer::Refused(failure.clone()));
            return Ok(());
        }
        let (left, right) = refused.split_at(refused.len() / 2);
        for half in [left, right] {
            if self.calls == 0 {
                self.note(half, || Answer::Open(failure.clone()));
                continue;
            }
            self.calls -= 1;
            if let Some(failure) = self.ask(half)? {
                self.divide(half, &failure)?;
            }
        }
        Ok(())
    }

    /// Tries to remove addresses that the description does not show: it may be older than their
    /// assignment. If EC2 refuses one address alone, that proves that it is not there.
    fn look_for(&mut self, doubtful: &[IpAddr]) -> Result<(), Failure> {
        for address in doubtful.iter().filter(|address| !self.eni.has(**address)) {
            let one = [*address];
            if self.ask(&one)?.is_some() {
                self.note(&one, || Answer::Absent);
            }
        }
        Ok(())
    }

    /// Has AWS remove all of `addresses` or none. Returns a refusal that is about these
    /// addresses, and fails with any other.
    fn ask(&mut self, addresses: &[IpAddr]) -> Result<Option<Failure>, Failure> {
        match self.own.unassign(addresses) {
            Ok(()) => {
                self.note(addresses, || Answer::Removed);
                Ok(None)
            }
            Err(failure) if failure.kind == Kind::Invalid && !failure.is_temporary() => {
                Ok(Some(failure))
            }
            Err(failure) => Err(failure),
        }
    }

    fn note(&mut self, addresses: &[IpAddr], answer: impl Fn() -> Answer) {
        let answers = addresses.iter().map(|address| (*address, answer()));
        self.answers.extend(answers);
    }
}
