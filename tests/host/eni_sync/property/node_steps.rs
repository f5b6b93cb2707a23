//! What operators, agents and machines do.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use harness::Output;
use harness::eni_lab::Hold;
use harness::vpc::eventually;

use super::site::{CHOSEN, LISTED, NETWORKS, RANGES};
use super::story::{ADDRESSES, PREFIX, Story};
use super::trouble::{self, Trouble};

const HELD: [&str; 2] = ["AssignPrivateIpAddresses", "UnassignPrivateIpAddresses"];

impl Story {
    pub(super) fn gc(&mut self, at: usize) {
        for network in NETWORKS {
            let call = self.sites[at].gc_call("eni-sync", network);
            let (output, trouble) = trouble::run(&mut self.random, &self.sites[at], &call);
            self.tell(&format!("GC at {at}: {:?}", output.status));
            self.assert_done(at, &output, trouble);
        }
    }

    pub(super) fn sync(&mut self, at: usize) {
        let output = self.sites[at].aws.command(&["sync", "--once"]);
        self.tell(&format!("sync at {at}: {:?}", output.status));
        self.assert_done(at, &output, Trouble::None);
    }

    /// What concerns every pod fails where a pod cannot be looked at.
    fn assert_done(&self, at: usize, output: &Output, trouble: Trouble) {
        let is_done = output.status == Some(0);
        let is_hidden = self.hidden.contains(&at);
        let is_excused = trouble != Trouble::None || is_hidden || self.lags;
        assert!(is_done || is_excused, "it failed\n{output}");
    }

    /// An operator gives back what nobody has.
    pub(super) fn release(&mut self, at: usize) {
        let address = *self.random.of(&ADDRESSES);
        let prefixes = self.vpc.lab.prefixes(&self.sites[at].enis[CHOSEN].0);
        let arguments = match (self.random.below(3), prefixes.first()) {
            (0, _) => vec!["release", "--network", "mgmt"],
            (1, Some(prefix)) => vec!["release", "--force", "--prefix", prefix],
            _ => vec!["release", "--force", "--address", address],
        };
        let output = self.sites[at].aws.command(&arguments);
        self.tell(&format!("{arguments:?} at {at}: {:?}", output.status));
    }

    /// Two minutes pass for all ledgers, with all agents stopped meanwhile.
    pub(super) fn let_time_pass(&mut self) {
        self.tell("time passes");
        let had_agent = [0, 1].map(|at| self.stop_agent(at));
        let lags = self.lags;
        self.let_all_be_current();
        for (site, had_agent) in self.sites.iter_mut().zip(had_agent) {
            site.let_time_pass(120);
            if had_agent {
                site.start_agent();
            }
        }
        self.passed = Instant::now();
        self.lags = lags;
    }

    /// The namespace of a pod cannot be opened for a while.
    pub(super) fn hide_or_show(&mut self, at: usize) {
        let site = &self.sites[at];
        if self.hidden.remove(&at) {
            site.pods.iter().for_each(|living| site.show(living));
        } else if let Some(living) = site.pods.first().filter(|_| site.lost.is_empty()) {
            site.hide(living);
            self.hidden.insert(at);
            self.tell(&format!("{} at {at} cannot be opened", living.pod.id));
        }
    }

    pub(super) fn start_or_stop_agent(&mut self, at: usize) {
        if !self.stop_agent(at) {
            self.require_agent(at);
        }
    }

    pub(super) fn require_agent(&mut self, at: usize) {
        if self.sites[at].agent.is_none() {
            self.sites[at].start_agent();
            self.tell(&format!("an agent runs at {at}"));
        }
    }

    /// Ends the agent as a service manager does; whether there was one.
    pub(super) fn stop_agent(&mut self, at: usize) -> bool {
        let agent = self.sites[at].agent.take();
        let had_agent = agent.is_some();
        if let Some(agent) = agent {
            assert_eq!(agent.stop(), Some(0), "the agent failed");
            self.tell(&format!("the agent of {at} has ended"));
        }
        had_agent
    }

    /// The agent is killed in the middle of what it asks of EC2, while a pod is attached.
    pub(super) fn kill_agent(&mut self, at: usize) {
        let Some(agent) = self.sites[at].agent.take() else {
            return;
        };
        let living = match self.random.one_in(2) {
            true => Some(self.chooser(at)),
            false => self.claimant(at),
        };
        let Some(living) = living else {
            return agent.kill();
        };
        let lab = &self.vpc.lab;
        let hold = *self.random.of(&[Hold::BeforeCommit, Hold::AfterCommit]);
        let action = *self.random.of(&HELD);
        lab.hold(action, hold);
        let output = thread::scope(|scope| {
            let site = &self.sites[at];
            let call = site.call("ADD", &living);
            let add = scope.spawn(move || site.aws.node.run(&call));
            assert!(eventually(|| lab.held() > 0 || add.is_finished()));
            agent.kill();
            lab.release_held();
            add.join().unwrap()
        });
        self.tell(&format!("the agent of {at} is killed, {hold:?}"));
        self.tell_of("ADD", at, &living, &output);
        self.note_add(at, living, &output);
    }

    /// The third node gets a prefix, or is terminated.
    pub(super) fn change_stranger(&mut self) {
        let (instance, eni) = self.stranger.clone();
        let lab = &self.vpc.lab;
        let is_free = |address: &&str| self.vpc.owner(address).is_none();
        let is_in = |address: &&str| is_in(address);
        let is_quiet = self.sites.iter().all(|site| site.agent.is_none());
        let is_possible = ADDRESSES.iter().copied().filter(is_in).all(|a| is_free(&a));
        if self.random.one_in(2) && is_quiet && is_possible && !self.has_prefix {
            lab.assign_prefix(&eni, PREFIX);
            self.has_prefix = true;
            self.tell(&format!("{PREFIX} is another ENI's"));
        } else if !self.is_terminated {
            lab.rules(|rules| rules.shutting_down = Duration::from_secs(3600));
            lab.terminate_instance(&instance);
            self.is_terminated = true;
            self.tell("the third node is terminated");
        }
    }

    /// Whether the prefix of another ENI has an address.
    pub(super) fn is_in_prefix(&self, address: &str) -> bool {
        self.has_prefix && is_in(address)
    }

    pub(super) fn reboot(&mut self, at: usize) {
        self.tell(&format!("reboot of {at}"));
        let site = &mut self.sites[at];
        if let Some(agent) = site.agent.take() {
            agent.kill();
        }
        while let Some(living) = site.pods.pop() {
            site.end(living);
        }
        self.hidden.remove(&at);
        let run = site.aws.run_directory();
        fs::remove_dir_all(run.join("eni-cni")).ok();
        for file in [RANGES, LISTED] {
            fs::remove_file(run.join(file)).ok();
        }
        site.is_forgetful = false;
        site.aws.node.reboot();
    }

    pub(super) fn lose_ledger(&mut self, at: usize) {
        if self.hidden.contains(&at) {
            return;
        }
        self.stop_agent(at);
        self.tell(&format!("the ledger of {at} is lost"));
        let site = &mut self.sites[at];
        let mut there: BTreeSet<String> = site.addresses();
        there.extend(site.in_use().map(str::to_owned));
        site.lose_ledger(there);
    }
}

/// Whether an address is in the prefix.
fn is_in(address: &str) -> bool {
    let last = address.strip_prefix("10.0.4.");
    let last = last.and_then(|last| last.parse::<u8>().ok());
    last.is_some_and(|last| (208..224).contains(&last))
}
