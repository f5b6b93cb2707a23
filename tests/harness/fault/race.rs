//! Commands at the same time, with random delays: in any order, an attachment must be
//! complete or absent, and absent after its last DEL.

use std::collections::BTreeSet;
use std::fmt;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::scene::{Maker, Scene, Subject};
use super::sweep::Tally;
use crate::{Output, Random};

/// The longest delay in microseconds, longer than a command takes on an idle machine.
const LATEST: usize = 40_000;

/// Which commands are executed at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// ADD of this number of pods, on three networks of two masters, and then DEL of all.
    Adds(usize),
    /// ADD, DEL and CHECK of one attachment.
    AddAndDel,
    /// ADD of one pod and GC for which only another pod is valid.
    AddAndGc,
    /// Two ADDs of one attachment.
    TwoAdds,
    /// Two DELs and a CHECK of one attachment.
    TwoDels,
    /// DEL and the end of the pod's namespace.
    DelAndEnd,
}

/// How many pods are attached at the same time.
const PODS: usize = 200;
/// The number of pods whose addresses an ENI can have.
const PODS_OF_AN_ENI: usize = 45;

impl Meeting {
    /// The possible ones: only our plugins have GC, and a virtual device may end with its
    /// namespace.
    pub fn of(subject: Subject, maker: Maker) -> Vec<Self> {
        if subject.has_nics() {
            // The machine has two of them.
            return Vec::new();
        }
        let pods = match subject {
            Subject::Registered | Subject::RegisteredIpvlan => PODS_OF_AN_ENI,
            _ => PODS,
        };
        let mut all = vec![
            Self::Adds(pods),
            Self::AddAndDel,
            Self::TwoAdds,
            Self::TwoDels,
        ];
        if maker == Maker::Ours {
            all.push(Self::AddAndGc);
        }
        if !subject.has_devices() {
            all.push(Self::DelAndEnd);
        }
        all
    }

    /// How many rounds, if others have `rounds`: a round with many pods takes as long as
    /// many rounds.
    pub fn rounds(self, rounds: usize) -> usize {
        match self {
            Self::Adds(pods) => rounds.div_ceil(pods),
            _ => rounds,
        }
    }
}

/// Several rounds of commands at the same time.
#[derive(Debug, Clone, Copy)]
pub struct Race {
    /// What is attached and detached.
    pub subject: Subject,
    /// Whose plugins do it.
    pub maker: Maker,
    /// Which commands meet.
    pub meeting: Meeting,
    /// How often.
    pub rounds: usize,
    /// The seed for the random delays.
    pub seed: u64,
}

impl Race {
    /// Executes all rounds; each must end without an error.
    #[track_caller]
    pub fn ends_well(&self) {
        let tally = self.run();
        assert!(tally.lost.is_empty(), "{}", tally.lost.join("\n"));
    }

    /// Executes all rounds.
    pub fn run(&self) -> Tally {
        let pods = match self.meeting {
            Meeting::Adds(pods) => pods,
            _ => 2,
        };
        let make = || Scene::new(self.subject, self.maker, pods);
        let mut scene = make();
        let mut random = Random::new(self.seed);
        let mut tally = Tally::default();
        for round in 0..self.rounds {
            let wrong = self.round(&mut scene, &mut random);
            tally.tried += 1;
            if !wrong.is_empty() {
                let wrong = wrong.join("\n    ");
                tally.lost.push(format!(
                    "{self}, seed {}, round {round}:\n    {wrong}",
                    self.seed
                ));
                scene = make();
            }
        }
        tally
    }

    /// Executes one round and the final DEL of each pod. Returns the errors.
    fn round(&self, scene: &mut Scene, random: &mut Random) -> Vec<String> {
        let late = [(); 3].map(|()| moment(random));
        let mut wrong = match self.meeting {
            Meeting::Adds(pods) => adds(scene, pods),
            Meeting::AddAndDel => add_and_del(scene, late),
            Meeting::AddAndGc => add_and_gc(scene, late),
            Meeting::TwoAdds => two_adds(scene, late),
            Meeting::TwoDels => two_dels(scene, late),
            Meeting::DelAndEnd => del_and_end(scene, late),
        };
        let pods = match self.meeting {
            Meeting::Adds(pods) => pods,
            _ => 2,
        };
        let dels = at_once(pods, |pod| scene.del(pod)).concat();
        wrong.extend(failed(&dels));
        wrong.extend(failed(&scene.release(&[])));
        wrong.append(&mut scene.left());
        wrong
    }
}

/// Every pod must have a complete attachment, and no address may be assigned twice.
fn adds(scene: &Scene, pods: usize) -> Vec<String> {
    let added = at_once(pods, |pod| scene.add(pod));
    let failed = added.iter().filter_map(|outcome| outcome.as_ref().err());
    let mut wrong: Vec<String> = failed.map(|output| output.to_string()).collect();
    let addresses = added.iter().flatten().flat_map(addresses_of);
    let addresses: Vec<String> = addresses.collect();
    let unique: BTreeSet<&String> = addresses.iter().collect();
    if unique.len() != addresses.len() {
        wrong.push(format!("an address was given twice: {addresses:?}"));
    }
    wrong.extend(not_whole(scene, &[pods]));
    wrong
}

fn add_and_del(scene: &Scene, late: [Duration; 3]) -> Vec<String> {
    let dels = thread::scope(|scope| {
        scope.spawn(|| at(late[0], || scene.add(0)));
        scope.spawn(|| at(late[2], || scene.check(0)));
        let del = scope.spawn(|| at(late[1], || scene.del(0)));
        del.join().expect("DEL ends")
    });
    let wrong = failed(&dels).into_iter();
    wrong.chain(not_whole(scene, &[0, 1])).collect()
}

fn add_and_gc(scene: &Scene, late: [Duration; 3]) -> Vec<String> {
    let mut wrong = not_added(&scene.add(1));
    let (added, gcs) = thread::scope(|scope| {
        let add = scope.spawn(|| at(late[0], || scene.add(0)));
        let gc = scope.spawn(|| at(late[1], || scene.gc(&[1])));
        (add.join().expect("ADD ends"), gc.join().expect("GC ends"))
    });
    // In a chain the ADD may fail, because eni-sync reports that GC has ended the
    // attachment.
    if !scene.is_chain() {
        wrong.append(&mut not_added(&added));
    }
    wrong.append(&mut failed(&gcs));
    wrong.extend(not_whole(scene, &[1, 2]));
    wrong
}

fn two_adds(scene: &Scene, late: [Duration; 3]) -> Vec<String> {
    let added = at_once(2, |n| at(late[n], || scene.add(0)));
    if added.iter().all(Result::is_err) {
        return added.iter().flat_map(not_added).collect();
    }
    not_whole(scene, &[1]).into_iter().collect()
}

fn two_dels(scene: &Scene, late: [Duration; 3]) -> Vec<String> {
    let mut wrong = not_added(&scene.add(0));
    let dels = thread::scope(|scope| {
        scope.spawn(|| at(late[2], || scene.check(0)));
        at_once(2, |n| at(late[n], || scene.del(0))).concat()
    });
    wrong.append(&mut failed(&dels));
    wrong.extend(not_whole(scene, &[0]));
    wrong
}

fn del_and_end(scene: &mut Scene, late: [Duration; 3]) -> Vec<String> {
    let mut wrong = not_added(&scene.add(0));
    let ending = scene.replace_namespace(0);
    let path = ending.path();
    let scene = &*scene;
    let dels = thread::scope(|scope| {
        // The value is kept until DEL has ended, so that its path leads to no namespace.
        let _ended = scope.spawn(move || at(late[0], || ending.end()));
        let del = scope.spawn(|| at(late[1], || scene.del_in(0, &path)));
        del.join().expect("DEL ends")
    });
    wrong.append(&mut failed(&dels));
    wrong
}

fn moment(random: &mut Random) -> Duration {
    let micros = u64::try_from(random.below(LATEST)).expect("it is small");
    Duration::from_micros(micros)
}

/// Does the work after this delay.
fn at<T>(late: Duration, work: impl FnOnce() -> T) -> T {
    thread::sleep(late);
    work()
}

fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let all: Vec<_> = (0..count).map(|n| scope.spawn(move || work(n))).collect();
        let ended = all
            .into_iter()
            .map(|one| one.join().expect("no thread panics"));
        ended.collect()
    })
}

fn addresses_of(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.map(|ip| ip["address"].to_string()).collect()
}

fn not_added(outcome: &Result<Value, Box<Output>>) -> Vec<String> {
    let error = outcome.as_ref().err();
    error.iter().map(|output| output.to_string()).collect()
}

fn failed(outputs: &[Output]) -> Vec<String> {
    let failed = outputs.iter().filter(|output| output.status != Some(0));
    failed.map(Output::to_string).collect()
}

/// An error if the number of complete attachments is not one of `counts`, or if anything
/// else is left. In a chain only the state after the last DEL is compared: two plugins of
/// a chain have no common lock, and eni-sync releases addresses later.
fn not_whole(scene: &Scene, counts: &[usize]) -> Option<String> {
    if scene.is_chain() {
        return None;
    }
    let left = scene.left();
    let is_whole = counts
        .iter()
        .any(|count| count * scene.whole() == left.len());
    (!is_whole).then(|| {
        format!(
            "there are not {counts:?} whole attachments:\n    {}",
            left.join("\n    ")
        )
    })
}

impl fmt::Display for Race {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.subject)?;
        match self.meeting {
            Meeting::Adds(pods) => write!(f, "{pods} ADDs at once"),
            Meeting::AddAndDel => write!(f, "ADD beside DEL and CHECK of one attachment"),
            Meeting::AddAndGc => write!(f, "ADD beside GC"),
            Meeting::TwoAdds => write!(f, "two ADDs of one attachment"),
            Meeting::TwoDels => write!(f, "two DELs and a CHECK of one attachment"),
            Meeting::DelAndEnd => write!(f, "DEL while the namespace ends"),
        }
    }
}
