//! Random sequences of commands of the Go host-local and ours on one directory, and of
//! what else can happen to it: what every command of ours does is compared with a
//! model that knows nothing but the files as they are before it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use harness::{Output, go_plugin};
use serde_json::{Value, json};

use super::host_local::Party;
use super::host_local_changed::await_settled;
use super::host_local_corpus::Random;
use crate::host_local::index::INDEX;
use crate::host_local::{EARLIER, Network, at_once};

const CASES: usize = 60;
const STEPS: usize = 60;
/// The containers that commands are about; others have the rest of the addresses.
const CONTAINERS: [&str; 6] = ["c0", "c1", "c2", "c3", "c4", "c5"];
/// The number of the last address of each of the two range sets; the first one is the
/// gateway's.
const LAST: u128 = 30;

type Files = BTreeMap<String, String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A command of a plugin.
    Add(Party, &'static str),
    AddRequested(&'static str, u128),
    Del(Party, &'static str),
    Check(&'static str),
    Status,
    Gc,
    /// ADD or DEL, killed at one of its system calls.
    Killed(&'static str, &'static str, &'static str, u64),
    /// A change by somebody who does not take the lock: a file with this content at
    /// the address with this number, or none.
    Write(usize, u128, &'static str),
    Remove(usize, u128),
    /// The next ADD is the first one of a boot.
    Reboot,
    /// A byte of the index becomes another.
    Tamper(u64),
    RemoveIndex,
}

#[test]
fn ours_does_what_the_files_say_whatever_happens_to_them() {
    let threads = 4;
    let cases: Vec<Case> = (0..CASES).map(Case::new).collect();
    // What ours does not read again if it has not changed.
    cases.iter().for_each(|case| await_settled(&case.network));
    let cases = Mutex::new(cases);
    let outcomes = at_once(threads, |_| {
        let next = || cases.lock().expect("no thread panics").pop();
        std::iter::from_fn(next).map(Case::run).sum::<usize>()
    });
    let adds: usize = outcomes.iter().sum();
    assert!(adds > CASES, "only {adds} ADDs have succeeded");
}

struct Case {
    number: usize,
    random: Random,
    network: Network,
}

impl Case {
    fn new(number: usize) -> Self {
        let mut random = Random::sequence(number);
        let ranges = json!([[{"subnet": "10.0.0.0/27"}], [{"subnet": "2001:db8::/123", "rangeEnd": "2001:db8::1e"}]]);
        let network = Network::new(json!({"ranges": ranges}));
        for n in 2..2 + random.below(25) {
            for set in 0..2 {
                network.write(&host(set, u128::from(n)), "c9\r\neth0");
            }
        }
        Self {
            number,
            random,
            network,
        }
    }

    /// Returns how many ADDs of ours have succeeded.
    fn run(mut self) -> usize {
        let mut steps = Vec::new();
        let mut adds = 0;
        for _ in 0..STEPS {
            let step = step(&mut self.random);
            steps.push(step);
            adds += usize::from(execute(&self.network, step, &steps, self.number));
        }
        adds
    }
}

fn step(r: &mut Random) -> Step {
    let id = r.pick(&CONTAINERS);
    let set = usize::from(r.chance(50));
    let n = u128::from(r.below(29) + 2);
    let contents = [
        "c0\r\nnet1",
        "c1\r\nnet1",
        "c2\r\nnet2",
        "c3",
        "no\tid",
        "",
        "c9\r\neth0",
    ];
    let calls = [
        "openat",
        "pwrite64",
        "utimensat",
        "linkat",
        "unlink",
        "write",
        "rename",
    ];
    match r.below(100) {
        0..25 => Step::Add(Party::Ours, id),
        25..45 => Step::Del(Party::Ours, id),
        45..55 => Step::Add(Party::Go, id),
        55..65 => Step::Del(Party::Go, id),
        65..70 => Step::AddRequested(id, n),
        70..76 => Step::Check(id),
        76..79 => Step::Status,
        79..80 => Step::Gc,
        80..86 => Step::Killed(r.pick(&["ADD", "DEL"]), id, r.pick(&calls), r.below(6) + 1),
        86..90 => Step::Write(set, n, r.pick(&contents)),
        90..94 => Step::Remove(set, n),
        94..95 => Step::Reboot,
        95..99 => Step::Tamper(r.below(8192)),
        _ => Step::RemoveIndex,
    }
}

/// Executes a step. Whatever ours does must be what the model does with the files.
fn execute(network: &Network, step: Step, steps: &[Step], case: usize) -> bool {
    let before = network.files();
    let model = Model::of(network);
    let ours = |command: &str, id: &str| network.call(command, id).run();
    let (output, expected) = match step {
        Step::Add(Party::Ours, id) => (ours("ADD", id), model.add(id, None)),
        Step::AddRequested(id, n) => {
            let mut conf = network.conf().clone();
            conf["runtimeConfig"] = json!({"ips": [host(0, n)]});
            (
                network.call("ADD", id).conf(&conf).run(),
                model.add(id, Some(n)),
            )
        }
        Step::Del(Party::Ours, id) => (ours("DEL", id), model.del(id)),
        Step::Check(id) => (ours("CHECK", id), model.check(id)),
        Step::Status => (network.status(), model.status()),
        Step::Gc => {
            let valid: Vec<Value> = CONTAINERS
                .iter()
                .map(|id| json!({"containerID": id}))
                .collect();
            (network.gc(valid.into()), model.gc())
        }
        other => {
            disturb(network, other);
            return false;
        }
    };
    let outcome = (output.status == Some(0), network.files());
    assert_eq!(
        outcome, expected,
        "case {case}\nbefore {before:#?}\n{steps:#?}\n{output}"
    );
    outcome.0 && output.call.variable("CNI_COMMAND") == "ADD"
}

/// Everything that ours is not asked about.
fn disturb(network: &Network, step: Step) {
    match step {
        Step::Add(party, id) => drop(go(network, party, "ADD", id)),
        Step::Del(party, id) => drop(go(network, party, "DEL", id)),
        Step::Killed(command, id, system_call, nth) => {
            let before = network.files();
            let inject = format!("inject={system_call}:signal=KILL:when={nth}");
            let trace = format!("trace={system_call}");
            let options = ["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
            network.call(command, id).run_under("strace", &options);
            let complete = |(name, content): (&String, &String)| {
                before.contains_key(name)
                    || name.starts_with("last")
                    || *content == format!("{id}\r\nnet1")
            };
            assert!(network.files().iter().all(complete), "{step:?}");
        }
        Step::Write(set, n, content) => {
            let name = host(set, n);
            // Nobody writes into a reservation of somebody, only into what is none yet.
            if network
                .files()
                .get(&name)
                .is_some_and(|content| content.contains('c'))
            {
                fs::remove_file(network.path(&name)).expect("the file can be removed");
            }
            network.write(&name, content);
        }
        Step::Remove(set, n) => drop(fs::remove_file(network.path(&host(set, n)))),
        Step::Reboot => {
            network.write(".boot_id", "another");
            network
                .files()
                .keys()
                .for_each(|name| network.date_back(name));
        }
        Step::Tamper(at) => {
            if let Ok(index) = OpenOptions::new()
                .read(true)
                .write(true)
                .open(network.path(INDEX))
            {
                let mut byte = [0];
                index.read_at(&mut byte, at).expect("the index is readable");
                index
                    .write_at(&[!byte[0]], at)
                    .expect("the index is writable");
            }
        }
        Step::RemoveIndex => drop(fs::remove_file(network.path(INDEX))),
        Step::AddRequested(..) | Step::Check(_) | Step::Status | Step::Gc => {}
    }
}

fn go(network: &Network, party: Party, command: &str, id: &str) -> Output {
    assert_eq!(party, Party::Go);
    assert!(go_plugin("host-local").is_file());
    let mut conf = network.conf().clone();
    conf["cniVersion"] = "1.0.0".into();
    party.call(network, command, id).conf(&conf).run()
}

/// The address with this number of a range set.
fn host(set: usize, n: u128) -> String {
    let address: IpAddr = match set {
        0 => Ipv4Addr::from_bits(0x0a00_0000 + n as u32).into(),
        _ => Ipv6Addr::from_bits((0x2001_0db8 << 96) + n).into(),
    };
    address.to_string()
}

/// A network as its files are.
struct Model {
    files: Files,
    /// Those that an ADD reclaims.
    abandoned: BTreeSet<String>,
}

impl Model {
    fn of(network: &Network) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("/proc is mounted");
        let known = fs::read_to_string(network.path(".boot_id"));
        let is_known = known.is_ok_and(|known| known == boot.trim());
        let is_old = |name: &str| {
            network
                .remembered(name)
                .is_some_and(|text| text.contains(EARLIER))
        };
        let files = network.files();
        let reserved = files
            .iter()
            .filter(|(name, _)| name.parse::<IpAddr>().is_ok());
        let abandoned =
            reserved.filter(|(name, content)| content.is_empty() || (!is_known && is_old(name)));
        Self {
            abandoned: abandoned.map(|(name, _)| name.clone()).collect(),
            files,
        }
    }

    /// The reservations with one of these contents.
    fn of_content(&self, content: &str) -> Vec<String> {
        let reserved = self
            .files
            .iter()
            .filter(|(name, _)| name.parse::<IpAddr>().is_ok());
        let own = reserved.filter(|(_, other)| *other == content);
        own.map(|(name, _)| name.clone()).collect()
    }

    /// The reservations that name the attachment, or else those of the container.
    fn own(&self, id: &str) -> Vec<String> {
        let own = self.of_content(&format!("{id}\r\nnet1"));
        if own.is_empty() {
            self.of_content(id)
        } else {
            own
        }
    }

    fn add(mut self, id: &str, requested: Option<u128>) -> (bool, Files) {
        self.files.retain(|name, _| !self.abandoned.contains(name));
        let own = [
            self.of_content(&format!("{id}\r\nnet1")),
            self.of_content(id),
        ]
        .concat();
        let before = self.files.clone();
        for set in 0..2 {
            let has_own = own.iter().any(|name| name.contains(':') == (set == 1));
            let chosen = match requested.filter(|_| set == 0) {
                Some(n) => Some(n).filter(|n| !before.contains_key(&host(set, *n))),
                None if has_own => None,
                None => self.next_free(set),
            };
            let Some(chosen) = chosen else {
                return (false, before);
            };
            self.files
                .insert(host(set, chosen), format!("{id}\r\nnet1"));
            self.files
                .insert(format!("last_reserved_ip.{set}"), host(set, chosen));
        }
        (true, self.files)
    }

    /// The next free number after the last one, which may be of no address.
    fn next_free(&self, set: usize) -> Option<u128> {
        let last = self.files.get(&format!("last_reserved_ip.{set}"));
        let last = last.and_then(|last| (1..=LAST).find(|n| host(set, *n) == *last));
        let last = last.unwrap_or(1);
        let lap = (last + 1..=LAST).chain(2..=last);
        lap.into_iter()
            .find(|n| !self.files.contains_key(&host(set, *n)))
    }

    fn del(mut self, id: &str) -> (bool, Files) {
        for name in self.own(id) {
            self.files.remove(&name);
        }
        (true, self.files)
    }

    fn check(self, id: &str) -> (bool, Files) {
        (!self.own(id).is_empty(), self.files)
    }

    fn status(self) -> (bool, Files) {
        let taken = |name: &String| self.files.contains_key(name) && !self.abandoned.contains(name);
        let is_free = |set| (2..=LAST).any(|n| !taken(&host(set, n)));
        (is_free(0) && is_free(1), self.files)
    }

    fn gc(mut self) -> (bool, Files) {
        let is_kept = |content: &String| {
            let id = content.split("\r\n").next().unwrap_or_default();
            CONTAINERS.contains(&id)
        };
        let is_broken = |content: &String| content == "no\tid";
        let reserved = |name: &String| name.parse::<IpAddr>().is_ok();
        let broken = self
            .files
            .iter()
            .any(|(name, content)| reserved(name) && is_broken(content));
        self.files
            .retain(|name, content| !reserved(name) || is_kept(content) || is_broken(content));
        (!broken, self.files)
    }
}
