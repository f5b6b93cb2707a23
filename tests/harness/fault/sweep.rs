//! The same fault at each system call of a command in turn, and what is left after it.

use std::fmt;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use super::order::{NEXT, Order, STRUCK};
use super::scene::{Maker, Scene, Subject};
use super::system_call::{ERRORS, LASTING, NO_MEMORY, SystemCall};
use super::trace::{Counted, Fault, Strike, Struck};
use crate::Output;

/// A fault at each system call of one command.
#[derive(Debug, Clone, Copy)]
pub struct Sweep {
    /// What is attached or detached.
    pub subject: Subject,
    /// Whose plugins do it.
    pub maker: Maker,
    /// `ADD` or `DEL`, of the network's last plugin.
    pub command: &'static str,
    /// The fault.
    pub fault: Fault,
    /// The commands after it.
    pub order: Order,
    /// Which system calls have it.
    pub counted: Counted,
    /// The step between two of them; 1 means each of them.
    pub every: usize,
}

/// The number of faults, and what was lost.
#[derive(Debug, Default)]
pub struct Tally {
    /// The number of faults.
    pub tried: usize,
    /// A description for each fault after which something was lost or left.
    pub lost: Vec<String>,
}

impl Sweep {
    /// The sweeps of a subject: a kill in ADD and in DEL with each order of commands after
    /// it, a power loss, and for our plugins each error of a system call. The error of
    /// netlink is only for plugins that use it.
    pub fn of(subject: Subject, maker: Maker) -> Vec<Self> {
        let orders = Order::of(subject, maker).into_iter();
        let mut faults: Vec<(Fault, Order)> = orders.map(|order| (Fault::Kill, order)).collect();
        faults.push((Fault::Crash, Order::Reboot));
        if maker == Maker::Ours {
            faults.extend(ERRORS.map(|errno| (Fault::Error(errno), Order::Del)));
            if subject.has_devices() || subject == Subject::Ipvlan {
                faults.push((Fault::Error(NO_MEMORY), Order::Del));
            }
        }
        let sweep = |command, (fault, order)| Self {
            subject,
            maker,
            command,
            fault,
            order,
            counted: Counted::Changing,
            every: 1,
        };
        let both = |fault| ["ADD", "DEL"].map(|command| sweep(command, fault));
        faults.into_iter().flat_map(both).collect()
    }

    /// The sweeps in which a kind of system calls fails from one of its first calls on.
    pub fn lasting(subject: Subject) -> Vec<Self> {
        let sweep = |(command, errno)| Self {
            subject,
            maker: Maker::Ours,
            command,
            fault: Fault::Lasting(errno),
            order: Order::Del,
            counted: Counted::All,
            every: 1,
        };
        let both = |errno| ["ADD", "DEL"].map(|command| (command, errno));
        LASTING.into_iter().flat_map(both).map(sweep).collect()
    }

    /// The same sweep, at every system call and not only at those that change something.
    pub fn of_all_calls(mut self) -> Self {
        self.counted = Counted::All;
        self
    }

    /// The same sweep, at one of `every` system calls.
    pub fn at_one_of(mut self, every: usize) -> Self {
        self.every = every;
        self
    }

    /// Executes the sweep; nothing may be lost.
    #[track_caller]
    pub fn loses_nothing(&self) {
        let tally = self.run();
        assert!(tally.tried > 0, "{self}: there was no such system call");
        assert!(tally.lost.is_empty(), "{}", tally.lost.join("\n"));
    }

    /// Executes the sweep, with as many threads as there are processors.
    pub fn run(&self) -> Tally {
        let tally = Mutex::new(Tally::default());
        let make = || Scene::new(self.subject, self.maker, self.order.pods());
        // There is only one set of network cards.
        let threads = if self.subject.has_nics() {
            1
        } else {
            processors()
        };
        let calls = Calls {
            every: self.every,
            threads,
        };
        calls.each(make, |scene, nth| self.strike(scene, nth, &tally));
        tally.into_inner().expect("no thread panics")
    }

    /// Executes the fault at this system call, in a scene that other sweeps use, too;
    /// nothing may be lost. Returns whether there was such a call.
    #[track_caller]
    pub fn loses_nothing_at(&self, call: usize, scene: &mut Scene) -> bool {
        let tally = Mutex::new(Tally::default());
        let is_struck = self.strike(scene, call, &tally);
        let tally = tally.into_inner().expect("no thread panics");
        assert!(tally.lost.is_empty(), "{}", tally.lost.join("\n"));
        is_struck
    }

    /// Executes the fault once, and adds the outcome to `tally`. False when there was no
    /// such call.
    fn strike(&self, scene: &mut Scene, nth: usize, tally: &Mutex<Tally>) -> bool {
        let (struck, left) = self.once(scene, nth);
        let Some(hit) = struck.hit else {
            return false;
        };
        let mut tally = tally.lock().expect("no thread panics");
        tally.tried += 1;
        if left.is_empty() {
            return true;
        }
        scene.remake();
        // A property that cannot be restored is only logged by host-device: an error would
        // keep the address of a device that is back already.
        if !struck.output.stderr.contains("failed to restore") {
            let (left, output) = (left.join("\n    "), struck.output);
            tally
                .lost
                .push(format!("{self}, {nth} ({hit}):\n    {left}\n{output}"));
        }
        true
    }

    /// Executes the fault once. Returns the system call and all errors found afterwards.
    fn once(&self, scene: &mut Scene, nth: usize) -> (Struck, Vec<String>) {
        scene.forget_ended();
        scene.give_back_devices();
        if self.order.has_neighbour() {
            let neighbour = scene.add(NEXT);
            neighbour.unwrap_or_else(|output| panic!("{self}, {nth}: {output}"));
        }
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
        let cannot_answer = struck.hit.is_some_and(SystemCall::is_write);
        if matches!(self.fault, Fault::Lasting(_)) {
            // The standard library ends a process whose allocator has no memory.
            let has_no_memory = struck.output.stderr.contains("memory allocation of ");
            let is_excused = has_no_memory || cannot_answer && struck.output.status.is_some();
            wrong.extend(self.wrong_answer(&struck.output).filter(|_| !is_excused));
        }
        if matches!(self.fault, Fault::Error(_)) && self.maker == Maker::Ours {
            wrong.extend(self.wrong_answer(&struck.output));
            let has_failed = self.command == "ADD" && struck.output.status != Some(0);
            // In a chain, eni-sync releases its address after DEL.
            if has_failed && prev_result == Value::Null {
                wrong.append(&mut scene.left());
            }
        }
        wrong.append(&mut self.order.follow(scene));
        wrong.append(&mut scene.left());
        (struck, wrong)
    }

    /// An error if the answer of a command with a failed system call is wrong: the command
    /// must succeed, or report the error in one document.
    fn wrong_answer(&self, output: &Output) -> Option<String> {
        let document: Option<Value> = serde_json::from_str(&output.stdout).ok();
        match (output.status, document) {
            (Some(0), None) if self.command == "DEL" && output.stdout.is_empty() => None,
            (Some(0), Some(result)) if result["cniVersion"].is_string() => None,
            (Some(1), Some(error)) if names_something(&error) => None,
            _ => Some("the answer is neither a result nor a clear error".to_owned()),
        }
    }
}

/// Whether an error document has a code and a message.
pub(super) fn names_something(error: &Value) -> bool {
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
            Fault::Lasting(errno) => write!(f, "{subject}: lasting {errno:?} in {command}")?,
        }
        write!(f, ", then {}", self.order)
    }
}

/// Calls `work` with 1 and then with every `every`-th number, until it returns that there
/// was no system call with this number. It uses as many threads as there are processors;
/// each has its own value from `make`.
pub fn each_system_call<S>(
    every: usize,
    make: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> bool + Sync,
) {
    let calls = Calls {
        every,
        threads: processors(),
    };
    calls.each(make, work);
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// The numbers of the system calls with a fault.
struct Calls {
    every: usize,
    threads: usize,
}

impl Calls {
    fn each<S>(&self, make: impl Fn() -> S + Sync, work: impl Fn(&mut S, usize) -> bool + Sync) {
        let next = AtomicUsize::new(1);
        thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    let mut own = make();
                    while work(&mut own, next.fetch_add(self.every, Ordering::Relaxed)) {}
                });
            }
        });
    }
}
