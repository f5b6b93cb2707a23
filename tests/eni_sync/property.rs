//! Whatever happens in whatever order on two nodes that want the same addresses, an ADD
//! is honest when it ends, and when it is quiet again the VPC has exactly what the
//! living pods have. `ENI_SYNC_SEEDS=100` runs more sequences, `ENI_SYNC_SEED=7` one.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use harness::eni_lab::Fault;
use harness::{Call, Output, Pod, Random};

use super::fixture::{AwsNode, Vpc};

/// Few, so that pods of both nodes meet; no other test has them.
const ADDRESSES: [&str; 7] = [
    "10.0.4.200",
    "10.0.4.201",
    "10.0.4.202",
    "10.0.4.203",
    "10.0.4.204",
    "2001:db8:4::200",
    "2001:db8:4::201",
];
const ACTIONS: [&str; 5] = [
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "AssignIpv6Addresses",
    "UnassignIpv6Addresses",
    "DescribeNetworkInterfaces",
];
const KILLED_AT: [&str; 4] = ["?rename,?renameat,?renameat2", "fsync", "connect", "flock"];
const STEPS: u32 = 40;
const SEEDS: u64 = 4;

/// A pod with a path of its own below `/run/netns`, as runtimes make them.
struct Living {
    pod: Pod,
    addresses: Vec<&'static str>,
}

struct Site {
    aws: AwsNode,
    pods: Vec<Living>,
    /// What was on the ENI when the ledger was lost: nobody removes that by itself.
    lost: BTreeSet<&'static str>,
}

impl Site {
    fn new(vpc: &Vpc) -> Self {
        let aws = vpc.node();
        fs::create_dir(aws.run_directory().join("netns")).unwrap();
        Self {
            aws,
            pods: Vec::new(),
            lost: BTreeSet::new(),
        }
    }

    fn start(&self, id: &str, addresses: &[&'static str]) -> Living {
        let pod = Pod::new(id);
        let path = self.aws.run_directory().join("netns").join(id);
        symlink(pod.netns.path(), path).unwrap();
        let addresses = addresses.to_vec();
        Living { pod, addresses }
    }

    /// The pod ends, and its namespace with it.
    fn end(&self, living: Living) {
        let path = self.aws.run_directory().join("netns").join(&living.pod.id);
        fs::remove_file(path).unwrap();
        drop(living);
    }

    fn call(&self, command: &str, living: &Living) -> Call {
        let netns = format!("/run/netns/{}", living.pod.id);
        let call = self.aws.pod_call(command, &living.pod, &living.addresses);
        call.env("CNI_NETNS", &netns)
    }

    fn gc_call(&self) -> Call {
        let valid: Vec<&Pod> = self.pods.iter().map(|living| &living.pod).collect();
        self.aws.gc_call(&valid)
    }

    fn has(&self, address: &str) -> bool {
        self.pods
            .iter()
            .any(|living| living.addresses.contains(&address))
    }

    fn end_cooldowns(&self) {
        for (address, state) in self.aws.ledger() {
            if state == "releasing" || state == "withdrawn" {
                self.aws.end_cooldown(&address);
            }
        }
    }
}

/// How a call is disturbed.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    None,
    Fault,
    Kill,
}

struct Story {
    random: Random,
    vpc: Vpc,
    sites: [Site; 2],
    pods: u32,
}

impl Story {
    fn new(seed: u64) -> Self {
        let vpc = Vpc::new();
        let sites = [Site::new(&vpc), Site::new(&vpc)];
        let random = Random::new(seed);
        Self {
            random,
            vpc,
            sites,
            pods: 0,
        }
    }

    fn step(&mut self) {
        let at = self.random.below(2);
        match self.random.below(20) {
            0..8 => self.add(at),
            8..12 => self.del(at),
            12 => self.check(at),
            13 | 14 => self.gc(at),
            15 | 16 => self.sites[at].end_cooldowns(),
            17 => self.die(at),
            18 if self.random.one_in(3) => self.reboot(at),
            19 if self.random.one_in(3) => self.lose_ledger(at),
            _ => {}
        }
    }

    /// Runs a call, perhaps with a fault or a kill, and says which.
    fn run(&mut self, at: usize, call: &Call) -> (Output, Trouble) {
        let aws = &self.sites[at].aws;
        let trouble = match self.random.below(6) {
            0 => Trouble::Fault,
            1 => Trouble::Kill,
            _ => Trouble::None,
        };
        let output = match trouble {
            Trouble::None => aws.run(call),
            Trouble::Fault => {
                let fault = fault(&mut self.random);
                let action = *self.random.of(&ACTIONS);
                aws.lab.fail_next(action, 1, fault);
                let output = aws.run(call);
                aws.lab.clear_faults();
                output
            }
            Trouble::Kill => {
                let (system_call, nth) = (self.random.of(&KILLED_AT), 1 + self.random.below(5));
                let inject = format!("inject={system_call}:signal=KILL:when={nth}");
                let arguments = ["-f", "-qq", "-o", "/dev/null", "-e", &inject];
                aws.node.inside(|| call.run_under("strace", &arguments))
            }
        };
        (output, trouble)
    }

    fn add(&mut self, at: usize) {
        let mut addresses = vec![*self.random.of(&ADDRESSES)];
        if self.random.one_in(3) {
            addresses.push(*self.random.of(&ADDRESSES));
        }
        let site = &self.sites[at];
        // Nobody can know that a pod has an address which the lost ledger had.
        if addresses
            .iter()
            .any(|a| site.has(a) && site.lost.contains(a))
        {
            return;
        }
        self.pods += 1;
        let living = site.start(&format!("c{}", self.pods), &addresses);
        let is_free = |address: &&str| {
            let owner = self.vpc.owner(address);
            owner.is_none_or(|eni| eni == site.aws.eni) && !site.has(address)
        };
        let must_succeed = addresses.iter().all(is_free);
        let call = site.call("ADD", &living);
        let (output, trouble) = self.run(at, &call);
        eprintln!(
            "ADD {} {addresses:?} at {at}: {:?}",
            living.pod.id, output.status
        );
        if output.status == Some(0) {
            return self.attached(at, living);
        }
        assert!(
            trouble != Trouble::None || !must_succeed,
            "an ADD failed\n{output}"
        );
        if self.random.below(3) > 0 {
            self.sites[at].aws.del(&living.pod);
        }
        self.sites[at].end(living);
    }

    fn attached(&mut self, at: usize, living: Living) {
        let site = &mut self.sites[at];
        for address in &living.addresses {
            let eni = self.vpc.owner(address);
            assert_eq!(
                eni.as_ref(),
                Some(&site.aws.eni),
                "{address} is not registered"
            );
            let prefix = if address.contains(':') { 128 } else { 32 };
            let cidr = format!("{address}/{prefix}");
            let netns = &living.pod.netns;
            netns.ip(&["address", "replace", &cidr, "dev", "lo"]);
            site.lost.remove(address);
        }
        site.pods.push(living);
    }

    fn del(&mut self, at: usize) {
        let Some(living) = self.take_any(at) else {
            return;
        };
        let call = self.sites[at].call("DEL", &living);
        let (output, trouble) = self.run(at, &call);
        eprintln!("DEL {} at {at}: {:?}", living.pod.id, output.status);
        let is_done = output.status == Some(0);
        assert!(
            is_done || trouble == Trouble::Kill,
            "a DEL failed\n{output}"
        );
        self.sites[at].end(living);
    }

    fn check(&mut self, at: usize) {
        if self.sites[at].pods.is_empty() {
            return;
        }
        let number = self.random.below(self.sites[at].pods.len());
        let call = self.sites[at].call("CHECK", &self.sites[at].pods[number]);
        let (output, trouble) = self.run(at, &call);
        let is_good = output.status == Some(0);
        assert!(
            is_good || trouble != Trouble::None,
            "a CHECK failed\n{output}"
        );
        let site = &mut self.sites[at];
        if is_good {
            let addresses = &site.pods[number].addresses;
            site.lost.retain(|address| !addresses.contains(address));
        }
    }

    fn gc(&mut self, at: usize) {
        let call = self.sites[at].gc_call();
        let (output, trouble) = self.run(at, &call);
        eprintln!("GC at {at}: {:?}", output.status);
        let is_done = output.status == Some(0);
        assert!(is_done || trouble != Trouble::None, "a GC failed\n{output}");
    }

    fn take_any(&mut self, at: usize) -> Option<Living> {
        let count = self.sites[at].pods.len();
        let number = self.random.below(count.max(1));
        (count > 0).then(|| self.sites[at].pods.swap_remove(number))
    }

    fn die(&mut self, at: usize) {
        if let Some(living) = self.take_any(at) {
            eprintln!("{} dies at {at}", living.pod.id);
            self.sites[at].end(living);
        }
    }

    fn reboot(&mut self, at: usize) {
        eprintln!("reboot of {at}");
        while let Some(living) = self.sites[at].pods.pop() {
            self.sites[at].end(living);
        }
        fs::remove_dir_all(self.sites[at].aws.run_directory().join("eni-cni")).ok();
        self.sites[at].aws.node.reboot();
    }

    fn lose_ledger(&mut self, at: usize) {
        eprintln!("the ledger of {at} is lost");
        let site = &mut self.sites[at];
        fs::remove_dir_all(site.aws.ledger_path()).ok();
        let there = site.aws.addresses();
        let there = |address: &&str| there.iter().any(|a| a == *address);
        site.lost.extend(ADDRESSES.into_iter().filter(there));
    }

    /// What must be true when nothing goes wrong any more.
    fn settle(&mut self) {
        for site in &mut self.sites {
            let aws = &site.aws;
            for living in &site.pods {
                aws.run(&site.call("CHECK", living)).ok();
                site.lost
                    .retain(|address| !living.addresses.contains(address));
            }
            aws.run(&site.gc_call()).ok();
            // What was only wanted is looked for twice before it is forgotten.
            for _ in 0..2 {
                site.end_cooldowns();
                aws.run(&site.gc_call()).ok();
            }
            let expected: BTreeSet<&str> =
                site.pods.iter().flat_map(|l| l.addresses.clone()).collect();
            let mut found: BTreeSet<String> = aws.addresses().into_iter().collect();
            found.retain(|address| !site.lost.contains(address.as_str()));
            assert!(
                found.iter().eq(expected.iter()),
                "{found:?} is not {expected:?}"
            );
            assert!(
                aws.ledger().keys().eq(expected.iter()),
                "{:?}",
                aws.ledger()
            );
        }
        let violations = self.vpc.lab.invariant_violations();
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

fn fault(random: &mut Random) -> Fault {
    let error = |code: &str| Fault::Error {
        status: 400,
        code: code.to_owned(),
        message: "because".to_owned(),
    };
    match random.below(7) {
        0 => Fault::Throttle,
        1 => Fault::DropAfterCommit,
        2 => Fault::DropBeforeCommit,
        3 => Fault::Garbage,
        4 => error("UnauthorizedOperation"),
        5 => error("InvalidParameterValue"),
        _ => Fault::ExpiredCredentials,
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn the_vpc_has_what_living_pods_have_after_any_sequence_of_events() {
    let seeds = match setting("ENI_SYNC_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("ENI_SYNC_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        eprintln!("ENI_SYNC_SEED={seed}");
        let mut story = Story::new(seed);
        for _ in 0..STEPS {
            story.step();
        }
        story.settle();
    }
}
