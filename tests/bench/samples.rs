//! Many samples of the same work, whose parties take turns.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::figure::Figure;
use crate::process::Cost;

/// Whose work it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    Ours,
    Go,
    /// What a row compares ours with besides: nothing but a process, the kernel's part,
    /// or our own plugin at something easier.
    Reference,
    /// Our plugins as programs of their own, which execute each other.
    Alone,
}

pub const BOTH: [Party; 2] = [Party::Ours, Party::Go];
pub const ALL: [Party; 3] = [Party::Ours, Party::Go, Party::Reference];

impl Party {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Go => "Go",
            Self::Reference => "reference",
            Self::Alone => "ours alone",
        }
    }
}

/// A part of a work, such as `ADD`.
pub type Step = &'static str;

/// What each step of each party has cost.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<(Party, Step), Vec<Cost>>);

/// What a party should cost at most, compared with another.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    pub cpu: Option<f64>,
    pub wall: Option<f64>,
}

impl Limits {
    pub fn new(cpu: f64, wall: f64) -> Self {
        let (cpu, wall) = (Some(cpu), Some(wall));
        Self { cpu, wall }
    }
}

impl Samples {
    /// Lets the parties work in turns after a warm-up.
    pub fn take(
        parties: &[Party],
        rounds: usize,
        mut work: impl FnMut(Party) -> Vec<(Step, Cost)>,
    ) -> Self {
        for party in parties {
            work(*party);
        }
        Self::take_cold(parties, rounds, work)
    }

    /// Lets the parties work in turns. Who begins changes every round.
    pub fn take_cold(
        parties: &[Party],
        rounds: usize,
        mut work: impl FnMut(Party) -> Vec<(Step, Cost)>,
    ) -> Self {
        let mut samples = Self::default();
        for round in 0..rounds {
            let mut order = parties.to_vec();
            order.rotate_left(round % parties.len());
            for party in order {
                samples.add(party, work(party));
            }
        }
        samples
    }

    /// Adds what the steps of a party have cost.
    pub fn add(&mut self, party: Party, steps: impl IntoIterator<Item = (Step, Cost)>) {
        for (step, cost) in steps {
            self.0.entry((party, step)).or_default().push(cost);
        }
    }

    /// The median of the time that a step took, in milliseconds.
    pub fn wall(&self, party: Party, step: Step) -> f64 {
        self.median(party, step, |cost| cost.wall)
    }

    /// The median of the CPU time that a step took, in milliseconds.
    pub fn cpu(&self, party: Party, step: Step) -> f64 {
        self.median(party, step, |cost| cost.cpu)
    }

    fn median(&self, party: Party, step: Step, of: fn(&Cost) -> Duration) -> f64 {
        let costs = self.0.get(&(party, step)).map(Vec::as_slice);
        let costs = costs.unwrap_or_default();
        assert!(!costs.is_empty(), "{party:?} has no sample of {step}");
        let mut times: Vec<Duration> = costs.iter().map(of).collect();
        times.sort();
        let (low, high) = (times[(times.len() - 1) / 2], times[times.len() / 2]);
        (low + high).as_secs_f64() * 1000.0 / 2.0
    }

    /// CPU and wall time of a step of ours beside Go's.
    pub fn beside_go(&self, step: Step, limits: Limits) -> [Figure; 2] {
        self.beside(Party::Go, "Go", step, limits)
    }

    /// The same beside the row's reference, which is called so.
    pub fn beside_reference(&self, name: &str, step: Step, limits: Limits) -> [Figure; 2] {
        self.beside(Party::Reference, name, step, limits)
    }

    /// The same beside our plugins as programs of their own.
    pub fn beside_alone(&self, step: Step, limits: Limits) -> [Figure; 2] {
        self.beside(Party::Alone, "two programs", step, limits)
    }

    fn beside(&self, party: Party, name: &str, step: Step, limits: Limits) -> [Figure; 2] {
        let figure = |what: &str, of: fn(&Self, Party, Step) -> f64, limit: Option<f64>| {
            let figure = Figure::new(format!("{step} {what}"), "ms", of(self, Party::Ours, step))
                .beside(name, of(self, party, step));
            match limit {
                Some(limit) => figure.at_most_times(limit),
                None => figure,
            }
        };
        [
            figure("CPU", Self::cpu, limits.cpu),
            figure("wall", Self::wall, limits.wall),
        ]
    }
}

/// `ADD`, `DEL` and their sum.
pub fn attachment(add: Cost, del: Cost) -> Vec<(Step, Cost)> {
    vec![("ADD", add), ("DEL", del), ("ADD + DEL", add + del)]
}
