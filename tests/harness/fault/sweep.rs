//! The same fault at every system call of a command in turn, and what it leaves.

use std::fmt;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use super::scene::{Maker, Scene, Subject};
use super::system_call::{ERRORS, NO_MEMORY};
use super::trace::{Counted, Fault, Strike, Struck};
use crate::Output;

/// The pod to which it happens, and one of the same network that comes after a reboot.
const STRUCK: usize = 0;
const NEXT: usize = 1;

/// What comes after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// The runtime sends DEL.
    Del,
    /// The machine is started anew, another pod comes and goes, and DEL comes late.
    Reboot,
}

/// A fault, at every system call of one command.
#[derive(Debug, Clone, Copy)]
pub struct Sweep {
    /// What is attached or detached.
    pub subject: Subject,
    /// Whose plugins do it.
    pub maker: Maker,
    /// `ADD` or `DEL`, of the network's last plugin.
    pub command: &'static str,
    /// What goes wrong.
    pub fault: Fault,
    /// What comes after it.
    pub recovery: Recovery,
    /// At which calls.
    pub counted: Counted,
    /// At each of them, or at one of so many.
    pub every: usize,
}

/// How often something went wrong, and what was lost.
#[derive(Debug, Default)]
pub struct Tally {
    /// How often it went wrong.
    pub tried: usize,
    /// What was lost, and when.
    pub lost: Vec<String>,
}

impl Sweep {
    /// Both commands killed and both recoveries, and for ours each error. Only some speak
    /// netlink.
    pub fn of(subject: Subject, maker: Maker) -> Vec<Self> {
        let mut faults = vec![
            (Fault::Kill, Recovery::Del),
            (Fault::Crash, Recovery::Reboot),
        ];
        if maker == Maker::Ours {
            faults.extend(ERRORS.map(|errno| (Fault::Error(errno), Recovery::Del)));
            if matches!(subject, Subject::HostDevice | Subject::Ipvlan) {
                faults.push((Fault::Error(NO_MEMORY), Recovery::Del));
            }
        }
        let sweep = |command, (fault, recovery)| Self {
            subject,
            maker,
            command,
            fault,
            recovery,
            counted: Counted::Changing,
            every: 1,
        };
        let both = |fault| ["ADD", "DEL"].map(|command| sweep(command, fault));
        faults.into_iter().flat_map(both).collect()
    }

    /// The same at every system call that there is.
    pub fn of_all_calls(mut self) -> Self {
        self.counted = Counted::All;
        self
    }

    /// The same at one system call of so many.
    pub fn at_one_of(mut self, every: usize) -> Self {
        self.every = every;
        self
    }

    /// Does all of it, and nothing may be lost.
    #[track_caller]
    pub fn loses_nothing(&self) {
        let tally = self.run();
        assert!(tally.tried > 0, "{self}: there was no such system call");
        assert!(tally.lost.is_empty(), "{}", tally.lost.join("\n"));
    }

    /// Does all of it, on as many threads as there are processors.
    pub fn run(&self) -> Tally {
        let tally = Mutex::new(Tally::default());
        let pods = if self.recovery == Recovery::Reboot {
            NEXT + 1
        } else {
            STRUCK + 1
        };
        let make = || Scene::new(self.subject, self.maker, pods);
        each_system_call(self.every, make, |scene, nth| {
            let (struck, left) = self.once(scene, nth);
            let Some(hit) = struck.hit else {
                return false;
            };
            let mut tally = tally.lock().expect("no thread panics");
            tally.tried += 1;
            if left.is_empty() {
                return true;
            }
            *scene = make();
            // To fail would keep the address of a device that is back already.
            if !struck.output.stderr.contains("failed to restore") {
                let (left, output) = (left.join("\n    "), struck.output);
                tally
                    .lost
                    .push(format!("{self}, {nth} ({hit}):\n    {left}\n{output}"));
            }
            true
        });
        tally.into_inner().expect("no thread panics")
    }

    /// What was struck, and everything that is wrong afterwards.
    fn once(&self, scene: &mut Scene, nth: usize) -> (Struck, Vec<String>) {
        let prepared = match self.command {
            "ADD" => scene.add_all_but_last(STRUCK),
            _ => scene.add(STRUCK),
        };
        let prev_result = prepared.unwrap_or_else(|output| panic!("{self}, {nth}: {output}"));
        let call = scene.last(self.command, STRUCK, &prev_result);
        let strike = Strike {
            fault: self.fault,
            counted: self.counted,
            nth,
        };
        let struck = scene.node().strike(&call, strike);
        let mut wrong = Vec::new();
        if matches!(self.fault, Fault::Error(_)) && self.maker == Maker::Ours {
            wrong.extend(self.wrong_answer(&struck.output));
            let has_failed = self.command == "ADD" && struck.output.status != Some(0);
            // What eni-sync has registered is released behind its DEL.
            if has_failed && prev_result == Value::Null {
                wrong.append(&mut scene.left());
            }
        }
        wrong.append(&mut self.recover(scene));
        wrong.append(&mut scene.left());
        (struck, wrong)
    }

    fn recover(&self, scene: &mut Scene) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.recovery == Recovery::Reboot {
            scene.reboot();
            let outputs = match scene.add(NEXT) {
                Ok(_) => scene.del(NEXT),
                Err(output) => vec![*output],
            };
            wrong.append(&mut failed(&outputs));
            wrong.append(&mut failed(&scene.release(&[])));
            // The record is what its late DEL finds.
            let left = scene.left().into_iter();
            wrong.extend(left.filter(|line| !line.starts_with("+ file eni-cni/")));
        }
        wrong.append(&mut failed(&scene.del(STRUCK)));
        wrong.append(&mut failed(&scene.release(&[])));
        wrong
    }

    /// What is wrong with the answer of a command in which a system call failed: it must
    /// succeed, or say in one document what failed.
    fn wrong_answer(&self, output: &Output) -> Option<String> {
        let document: Option<Value> = serde_json::from_str(&output.stdout).ok();
        match (output.status, document) {
            (Some(0), None) if self.command == "DEL" && output.stdout.is_empty() => None,
            (Some(0), Some(result)) if result["cniVersion"].is_string() => None,
            (Some(1), Some(error)) if names_something(&error) => None,
            _ => Some("the answer is no result and no clear error".to_owned()),
        }
    }
}

fn failed(outputs: &[Output]) -> Vec<String> {
    let failed = outputs.iter().filter(|output| output.status != Some(0));
    failed
        .map(|output| format!("it is not cleaned: {output}"))
        .collect()
}

/// Whether an error has a code, says what was being done, and what the system said.
fn names_something(error: &Value) -> bool {
    let has_text = |key: &str| error[key].as_str().is_some_and(|text| !text.is_empty());
    error["code"].is_u64() && has_text("msg")
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (command, subject) = (self.command, self.subject);
        match self.fault {
            Fault::Kill => write!(f, "{subject}: SIGKILL in {command}")?,
            Fault::Crash => write!(f, "{subject}: power loss in {command}")?,
            Fault::Error(errno) => write!(f, "{subject}: {errno:?} in {command}")?,
        }
        match self.recovery {
            Recovery::Del => write!(f, ", then DEL"),
            Recovery::Reboot => write!(f, ", then a reboot"),
        }
    }
}

/// Does `work` for the first system call, and for one of `every` that follow, until it
/// says that there was none of this number. It is done on as many threads as there are
/// processors, and each has what `make` makes.
pub fn each_system_call<S>(
    every: usize,
    make: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> bool + Sync,
) {
    let next = AtomicUsize::new(1);
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = make();
                while work(&mut own, next.fetch_add(every, Ordering::Relaxed)) {}
            });
        }
    });
}
