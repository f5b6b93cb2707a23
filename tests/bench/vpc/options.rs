//! The command line, and the scenarios it asks for.

use std::fmt;

use clap::{Parser, ValueEnum};

use crate::measure::Contender;

/// Measures eni-sync beside the programs that it replaces.
///
/// Without a number four scenarios are run: a node that starts 10 of 100 pods a second,
/// a node that starts 100 pods at once, 10 nodes that start 40 pods each at once, and 20 nodes
/// that start 10 of 40 pods a second.
#[derive(Debug, Parser)]
#[command(name = "vpc-bench", version)]
pub struct Options {
    /// Nodes, which share the account's budget of calls.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=60))]
    nodes: Option<u16>,
    /// Pods of each node.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=600))]
    pods: Option<u16>,
    /// Pods that each node starts in a second; without it, all at once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rate: Option<u16>,
    /// Measure only this one; repeat it for more.
    #[arg(long, value_name = "NAME", value_enum)]
    only: Vec<Contender>,
    /// Print JSON, not tables.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    pub fn contenders(&self) -> &[Contender] {
        match self.only.as_slice() {
            [] => Contender::value_variants(),
            some => some,
        }
    }

    pub fn scenarios(&self) -> Vec<Scenario> {
        let scenario = |nodes, pods, rate| Scenario { nodes, pods, rate };
        if let (None, None, None) = (self.nodes, self.pods, self.rate) {
            return vec![
                scenario(1, 100, Some(10)),
                scenario(1, 100, None),
                scenario(10, 40, None),
                scenario(20, 40, Some(10)),
            ];
        }
        let number = |given: Option<u16>, usual| given.map_or(usual, usize::from);
        vec![scenario(
            number(self.nodes, 1),
            number(self.pods, 100),
            self.rate,
        )]
    }
}

/// Which pods are started when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    pub nodes: usize,
    /// Pods of each node.
    pub pods: usize,
    /// Pods that each node starts in a second; all at once without it.
    pub rate: Option<u16>,
}

impl Scenario {
    pub fn all_pods(&self) -> usize {
        self.nodes * self.pods
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nodes {
            1 => write!(f, "1 node, {} pods", self.pods)?,
            n => write!(f, "{n} nodes with {} pods each", self.pods)?,
        }
        match self.rate {
            Some(rate) => write!(f, ", {rate} pods a second"),
            None => write!(f, ", all at once"),
        }
    }
}
