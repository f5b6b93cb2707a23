//! What runtimes and pods do.

use std::thread;

use harness::Output;

use super::super::ipam::addresses;
use super::site::{CHOSEN, IPV6_ONLY, Living, Network, Site};
use super::story::{ADDRESSES, Story};
use super::trouble::{self, Trouble};

impl Story {
    pub(super) fn next_pod(&mut self) -> String {
        self.pods += 1;
        format!("c{}", self.pods)
    }

    /// A pod asks for addresses by name.
    pub(super) fn add(&mut self, at: usize) {
        let Some(living) = self.claimant(at) else {
            return;
        };
        let must_succeed = self.is_quiet() && self.are_free(at, &living);
        self.run_add(at, living, must_succeed);
    }

    /// Runs the ADD, and notes what it has given.
    fn run_add(&mut self, at: usize, living: Living, must_succeed: bool) {
        let call = self.sites[at].call("ADD", &living);
        let (output, trouble) = trouble::run(&mut self.random, &self.sites[at], &call);
        self.tell_of("ADD", at, &living, &output);
        assert!(
            output.status == Some(0) || trouble != Trouble::None || !must_succeed,
            "an ADD failed\n{output}"
        );
        self.note_add(at, living, &output);
    }

    /// A pod that is going to ask for addresses on one of the node's ENIs.
    pub(super) fn claimant(&mut self, at: usize) -> Option<Living> {
        let mut addresses = vec![*self.random.of(&ADDRESSES)];
        if self.random.one_in(3) {
            addresses.push(*self.random.of(&ADDRESSES));
        }
        let site = &self.sites[at];
        // Nobody can know that a pod has an address which the lost ledger had.
        let is_unknown = |address: &&str| site.has(address) && site.lost.contains(*address);
        if addresses.iter().any(is_unknown) {
            return None;
        }
        let (id, eni) = (self.next_pod(), self.random.below(2));
        let mut living = self.sites[at].start(&id, eni, Network::Chained);
        living.addresses = addresses.into_iter().map(str::to_owned).collect();
        living.addresses.dedup();
        Some(living)
    }

    /// Whether an ADD can fail only for what the pod asks for.
    fn is_quiet(&self) -> bool {
        !self.lags && self.sites.iter().all(|site| site.agent.is_none())
    }

    fn are_free(&self, at: usize, living: &Living) -> bool {
        let site = &self.sites[at];
        let is_free = |address: &String| {
            let owner = self.vpc.owner(address);
            let is_own = |eni| eni == site.enis[living.eni].0;
            owner.is_none_or(is_own) && !site.has(address) && !self.is_in_prefix(address)
        };
        living.addresses.iter().all(is_free)
    }

    /// A pod gets an address from a pool of the node's agent.
    pub(super) fn add_from(&mut self, at: usize, network: Network) {
        let id = self.next_pod();
        let mut living = self.sites[at].start(&id, network.eni(), network);
        let call = Site::host_local("ADD", &living);
        let given = self.sites[at].aws.run(&call);
        if given.status != Some(0) {
            self.sites[at].end(living);
            // Its runtime tries again, when an agent has written the file.
            return self.require_agent(at);
        }
        living.addresses = addresses(&given.ok());
        if network == Network::Unchained {
            return self.note_unchained(at, living, &given);
        }
        let call = self.sites[at].call("ADD", &living);
        let (output, _) = trouble::run(&mut self.random, &self.sites[at], &call);
        self.tell_of("ADD", at, &living, &output);
        self.note_add(at, living, &output);
    }

    /// What host-local gives is on the ENI, unless nobody knows any more what it was told.
    fn note_unchained(&mut self, at: usize, living: Living, output: &Output) {
        self.tell_of("ADD without eni-sync", at, &living, output);
        let site = &self.sites[at];
        let owner = self.vpc.owner(&living.addresses[0]);
        let is_there = owner.as_ref() == Some(&site.enis[living.eni].0);
        assert!(is_there || site.is_forgetful, "{:?}", living.addresses);
        match is_there {
            true => self.note_add(at, living, output),
            false => self.detach(at, living),
        }
    }

    /// A pod of a network without addresses.
    pub(super) fn add_chosen(&mut self, at: usize) {
        let living = self.chooser(at);
        // Whether an address of a prefix is free is not known where a pod cannot be looked at.
        // Neither an agent nor what lags is a reason: EC2 chooses.
        let must_succeed = !self.hidden.contains(&at);
        self.run_add(at, living, must_succeed);
    }

    /// A pod that is going to ask for what EC2 chooses.
    pub(super) fn chooser(&mut self, at: usize) -> Living {
        let id = self.next_pod();
        let (eni, families): (usize, &'static [&'static str]) = match self.random.below(4) {
            0 => (IPV6_ONLY, &["ipv6"]),
            1 => (CHOSEN, &["ipv4", "ipv6"]),
            _ => (CHOSEN, &["ipv4"]),
        };
        let mut living = self.sites[at].start(&id, eni, Network::Chosen);
        living.families = families;
        living
    }

    /// A pod lives when its ADD has succeeded. Else the runtime sends a DEL, or not.
    pub(super) fn note_add(&mut self, at: usize, mut living: Living, output: &Output) {
        if output.status == Some(0) {
            if living.network == Network::Chosen {
                living.addresses = addresses(&output.ok());
                self.tell(&format!("{} has {:?}", living.pod.id, living.addresses));
            }
            return self.attach(at, living);
        }
        match self.random.below(3) {
            0 => self.sites[at].end(living),
            _ => self.detach(at, living),
        }
    }

    fn attach(&mut self, at: usize, living: Living) {
        self.attached += 1;
        let site = &mut self.sites[at];
        for address in &living.addresses {
            let prefix = if address.contains(':') { 128 } else { 32 };
            let cidr = format!("{address}/{prefix}");
            let netns = &living.pod.netns;
            netns.ip(&["address", "replace", &cidr, "dev", "lo"]);
            site.lost.remove(address);
        }
        site.pods.push(living);
    }

    /// Two pods ask for the same address at the same time.
    pub(super) fn race(&mut self, at: usize) {
        let (Some(first), other) = (self.claimant(at), self.random.below(2)) else {
            return;
        };
        let (id, eni) = (self.next_pod(), self.random.below(2));
        let mut second = self.sites[other].start(&id, eni, Network::Chained);
        second.addresses.clone_from(&first.addresses);
        let run = |at: usize, living: &Living| {
            let site = &self.sites[at];
            site.aws.run(&site.call("ADD", living))
        };
        let outputs = thread::scope(|scope| {
            let first = scope.spawn(|| run(at, &first));
            let second = scope.spawn(|| run(other, &second));
            [first, second].map(|add| add.join().unwrap())
        });
        self.tell_of("ADD", at, &first, &outputs[0]);
        self.tell_of("ADD", other, &second, &outputs[1]);
        self.note_add(at, first, &outputs[0]);
        self.note_add(other, second, &outputs[1]);
    }

    pub(super) fn del(&mut self, at: usize) {
        let Some(living) = self.take_any(at) else {
            return;
        };
        if living.network == Network::Unchained {
            return self.detach(at, living);
        }
        let call = self.sites[at].call("DEL", &living);
        let (output, trouble) = trouble::run(&mut self.random, &self.sites[at], &call);
        self.tell_of("DEL", at, &living, &output);
        let is_done = output.status == Some(0);
        assert!(
            is_done || trouble == Trouble::Kill,
            "a DEL failed\n{output}"
        );
        if is_done {
            self.return_address(at, &living);
        }
        self.sites[at].end(living);
    }

    /// What a runtime does with a pod that ends, undisturbed.
    pub(super) fn detach(&mut self, at: usize, living: Living) {
        let site = &self.sites[at];
        if living.network != Network::Unchained {
            site.aws.run(&site.call("DEL", &living)).ok();
        }
        self.return_address(at, &living);
        self.sites[at].end(living);
    }

    fn return_address(&self, at: usize, living: &Living) {
        if living.network.file().is_some() {
            let call = Site::host_local("DEL", living);
            self.sites[at].aws.run(&call).ok();
        }
    }

    /// CHECK says that a living pod has what it has.
    pub(super) fn ask_check(&mut self, at: usize) {
        let Some(living) = self.take_any(at) else {
            return;
        };
        self.sites[at].show(&living);
        if living.network == Network::Unchained {
            let call = Site::host_local("CHECK", &living);
            self.sites[at].aws.run(&call).ok();
            return self.sites[at].pods.push(living);
        }
        let call = self.sites[at].call("CHECK", &living);
        let (output, trouble) = trouble::run(&mut self.random, &self.sites[at], &call);
        self.tell_of("CHECK", at, &living, &output);
        let is_good = output.status == Some(0);
        assert!(
            is_good || trouble != Trouble::None || self.lags,
            "a CHECK failed\n{output}"
        );
        let site = &mut self.sites[at];
        if is_good {
            site.lost.retain(|a| !living.addresses.contains(a));
        }
        site.pods.push(living);
    }

    /// A pod ends without a DEL.
    pub(super) fn die(&mut self, at: usize) {
        if let Some(living) = self.take_any(at) {
            self.tell(&format!("{} dies at {at}", living.pod.id));
            self.sites[at].end(living);
        }
    }

    pub(super) fn take_any(&mut self, at: usize) -> Option<Living> {
        let count = self.sites[at].pods.len();
        let number = self.random.below(count.max(1));
        (count > 0).then(|| self.sites[at].pods.swap_remove(number))
    }

    pub(super) fn tell_of(&self, command: &str, at: usize, living: &Living, output: &Output) {
        let Living {
            pod,
            eni,
            addresses,
            ..
        } = living;
        let status = output.status;
        let whose = format!("{} {addresses:?} on ENI {eni} of {at}", pod.id);
        self.tell(&format!("{command} {whose}: {status:?}"));
    }
}
