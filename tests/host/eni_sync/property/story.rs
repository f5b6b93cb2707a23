//! The VPC of a story, and how it is chosen what happens next.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use harness::Random;
use harness::eni_lab::{EniId, InstanceId};
use harness::vpc::Vpc;

use super::site::{Network, Site};

/// Few, so that pods of both nodes meet; no other test has them. The agents' pools have
/// some of them too, and two are in a prefix that another ENI may get.
pub(super) const ADDRESSES: [&str; 8] = [
    "10.0.4.202",
    "10.0.4.203",
    "10.0.4.204",
    "10.0.4.205",
    "10.0.4.208",
    "10.0.4.210",
    "2001:db8:4::200",
    "2001:db8:4::201",
];
/// On an ENI from the beginning, nobody knows for whom.
pub(super) const FOREIGN: &str = "10.0.4.240";
/// What the stranger's ENI has from the beginning, and what it may get.
const STRANGERS: [&str; 2] = ["10.0.4.203", "10.0.4.205"];
pub(super) const PREFIX: &str = "10.0.4.208/28";
/// How far descriptions may lag behind.
const LAG: Duration = Duration::from_secs(3);

/// Two nodes, and what has happened to them so far.
pub(super) struct Story {
    seed: u64,
    pub(super) random: Random,
    pub(super) sites: [Site; 2],
    pub(super) vpc: Vpc,
    /// A third node, and its ENI for pods.
    pub(super) stranger: (InstanceId, EniId),
    pub(super) is_terminated: bool,
    pub(super) has_prefix: bool,
    /// The nodes on which a pod's namespace cannot be opened.
    pub(super) hidden: BTreeSet<usize>,
    /// When time has passed last. No description shows what was before that.
    pub(super) passed: Instant,
    pub(super) lags: bool,
    pub(super) pods: u32,
    /// How many ADDs have succeeded.
    pub(super) attached: u32,
}

impl Story {
    pub(super) fn new(seed: u64) -> Self {
        let vpc = Vpc::new();
        // EC2's clock is as the nodes', or ten minutes before or behind it.
        let ahead = [0, 600, -600][usize::try_from(seed % 3).unwrap()];
        vpc.lab.rules(|rules| rules.clock_ahead = ahead);
        let mut random = Random::new(seed);
        let number = 100 + seed % 100;
        let ipv6 = format!("2001:db8:{number}::/64");
        let range = format!("10.0.{number}.0/24");
        let subnet = vpc.lab.create_subnet(&vpc.id, &range, Some(&ipv6));
        let ipv6 = format!("2001:db8:6{number}::/64");
        let ipv6_only = vpc.lab.create_ipv6_subnet(&vpc.id, &ipv6);
        let subnets = [&subnet, &ipv6_only];
        let sites = [0, 1].map(|_| Site::new(&vpc, subnets, *random.of(&[0, 30])));
        let instance = vpc.lab.run_instance("c5.large", &vpc.nodes);
        let eni = vpc.lab.multus_eni(&instance, &vpc.pods);
        let parsed = |text: &str| text.parse().unwrap();
        vpc.lab.assign(&eni, &STRANGERS.map(parsed));
        vpc.lab.assign(&sites[0].enis[1].0, &[parsed(FOREIGN)]);
        Self {
            seed,
            random,
            sites,
            vpc,
            stranger: (instance, eni),
            is_terminated: false,
            has_prefix: false,
            hidden: BTreeSet::new(),
            passed: Instant::now(),
            // As in EC2; some stories are told with the exact descriptions of few accounts.
            lags: seed % 4 != 3,
            pods: 0,
            attached: 0,
        }
    }

    /// Says what has happened, for whoever reads of a failure.
    pub(super) fn tell(&self, what: &str) {
        eprintln!("{}: {what}", self.seed);
    }

    /// Something happens.
    pub(super) fn step(&mut self) {
        let at = self.random.below(2);
        self.keep_lagging();
        match self.random.below(42) {
            0..8 => self.add(at),
            8..11 => self.add_from(at, Network::Pooled),
            11..16 => self.del(at),
            16 => self.ask_check(at),
            17 => self.gc(at),
            18 => self.sync(at),
            19 => self.release(at),
            20 | 21 => self.let_time_pass(),
            22 => self.die(at),
            23 => self.hide_or_show(at),
            24 | 25 => self.start_or_stop_agent(at),
            26 | 27 => self.kill_agent(at),
            28 => self.change_stranger(),
            29 => self.lag_or_not(),
            30 => self.race(at),
            32..36 => self.add_chosen(at),
            36..39 => self.add_from(at, Network::Listed),
            39..42 => self.add_from(at, Network::Unchained),
            _ if self.random.one_in(2) => self.reboot(at),
            _ => self.lose_ledger(at),
        }
    }

    /// From now on descriptions show the past, or not any more.
    fn lag_or_not(&mut self) {
        self.lags = !self.lags;
        let word = if self.lags { "lag" } else { "are exact" };
        self.tell(&format!("descriptions {word}"));
        self.keep_lagging();
    }

    /// Descriptions that lag show the past as far as time has not passed since.
    fn keep_lagging(&self) {
        let lag = match self.lags {
            true => self.passed.elapsed().min(LAG),
            false => Duration::ZERO,
        };
        self.vpc.lab.rules(|rules| {
            rules.describe_lag = lag;
            rules.imds_lag = lag;
        });
    }

    /// Descriptions show what there is.
    pub(super) fn let_all_be_current(&mut self) {
        if self.lags {
            self.lag_or_not();
        }
    }

    /// Nothing is stale and no namespace is hidden any more.
    pub(super) fn let_all_be_well(&mut self) {
        self.let_all_be_current();
        self.hidden.clear();
        for site in &self.sites {
            site.pods.iter().for_each(|living| site.show(living));
        }
    }
}
