//! What comes after a fault: the orders of commands that a runtime can send then, and what
//! must be so after each of them.

use std::collections::BTreeSet;
use std::fmt;

use super::scene::{Maker, Scene, Subject};
use super::sweep::names_something;
use crate::Output;

/// The pod to which it happens, and another one of the same network.
pub(super) const STRUCK: usize = 0;
pub(super) const NEXT: usize = 1;

/// An order of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The runtime sends DEL.
    Del,
    /// GC for which no attachment is valid, and then DEL all the same.
    Gc,
    /// ADD of the same attachment once more.
    Again,
    /// ADD of another pod, with the same device where there is one, before the DEL comes.
    Next,
    /// GC for which no attachment is valid, and ADD of another pod.
    GcAndNext,
    /// ADD of another pod, and GC for which only that is valid.
    NextAndGc,
    /// Two pods that are both attached get each other's device.
    Crossing,
    /// The pod's namespace ends, another pod gets the device, and DEL comes late.
    End,
    /// The machine is started anew, another pod comes and goes, and DEL comes late.
    Reboot,
}

/// One command, or what happens between two.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// ADD of this pod, which may be refused.
    Add(usize),
    /// ADD of this pod, which must succeed.
    Serve(usize),
    /// DEL of this pod.
    Del(usize),
    /// GC for which these are valid.
    Gc(&'static [usize]),
    /// The pods get each other's device from now on.
    Exchange,
    /// The second pod gets the device of the first from now on.
    Lend,
    /// The namespace of this pod ends.
    End(usize),
    /// The machine is started anew.
    Reboot,
    /// Nothing is left but the records that a late DEL finds.
    OnlyRecords,
}

impl Order {
    /// Those that are possible: GC is ours alone, only a device of its own outlives the
    /// namespace that it is in, and only devices can be exchanged.
    pub fn of(subject: Subject, maker: Maker) -> Vec<Self> {
        let mut all = vec![Self::Del, Self::Again, Self::Next];
        if maker == Maker::Ours {
            all.extend([Self::Gc, Self::GcAndNext, Self::NextAndGc]);
        }
        if subject.has_devices() {
            all.push(Self::Crossing);
        }
        if subject.has_nics() {
            all.push(Self::End);
        }
        all
    }

    /// How many pods it needs.
    pub(super) fn pods(self) -> usize {
        match self {
            Self::Del | Self::Gc | Self::Again => STRUCK + 1,
            _ => NEXT + 1,
        }
    }

    /// Whether the other pod is attached before the fault.
    pub(super) fn has_neighbour(self) -> bool {
        self == Self::Crossing
    }

    /// Every command, but for the last DEL of everything, which is always sent.
    fn steps(self) -> &'static [Step] {
        match self {
            Self::Del => &[],
            Self::Gc => &[Step::Gc(&[])],
            Self::Again => &[Step::Add(STRUCK)],
            Self::Next => &[Step::Lend, Step::Add(NEXT), Step::Del(STRUCK)],
            Self::GcAndNext => &[Step::Lend, Step::Gc(&[]), Step::Serve(NEXT)],
            Self::NextAndGc => &[Step::Lend, Step::Add(NEXT), Step::Gc(&[NEXT])],
            Self::Crossing => &[
                Step::Exchange,
                Step::Del(NEXT),
                Step::Add(NEXT),
                Step::Add(STRUCK),
            ],
            Self::End => &[
                Step::End(STRUCK),
                Step::Lend,
                Step::Add(NEXT),
                Step::Del(STRUCK),
            ],
            Self::Reboot => &[
                Step::Reboot,
                Step::Serve(NEXT),
                Step::Del(NEXT),
                Step::OnlyRecords,
            ],
        }
    }

    /// Does all of it, and returns what is wrong meanwhile. A pod that was attached has its
    /// attachment until a command ends that.
    pub(super) fn follow(self, scene: &mut Scene) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut attached = BTreeSet::new();
        for step in self.steps() {
            wrong.append(&mut step.take(scene, &mut attached));
            let lost = attached.iter().filter(|pod| !scene.has_attachment(**pod));
            wrong.extend(lost.map(|pod| format!("{step:?}: pod {pod} has lost its attachment")));
        }
        for pod in (0..self.pods()).rev() {
            wrong.append(&mut failed(&scene.del(pod)));
        }
        wrong.append(&mut failed(&scene.release(&[])));
        wrong
    }
}

impl Step {
    fn take(self, scene: &mut Scene, attached: &mut BTreeSet<usize>) -> Vec<String> {
        match self {
            Self::Add(pod) => match scene.add(pod) {
                Err(output) => refused(scene, &output).into_iter().collect(),
                Ok(_) => {
                    attached.insert(pod);
                    Vec::new()
                }
            },
            Self::Serve(pod) => match scene.add(pod) {
                Err(output) => vec![format!("it is not served: {output}")],
                Ok(_) => {
                    attached.insert(pod);
                    Vec::new()
                }
            },
            Self::Del(pod) => {
                attached.remove(&pod);
                failed(
                    &[
                        scene.del(pod),
                        scene.release(&Vec::from_iter(attached.clone())),
                    ]
                    .concat(),
                )
            }
            Self::Gc(valid) => {
                attached.retain(|pod| valid.contains(pod));
                failed(&scene.gc(valid))
            }
            Self::Exchange => scene.give_devices(&[NEXT, STRUCK]),
            Self::Lend => scene.give_devices(&[STRUCK, STRUCK]),
            Self::End(pod) => scene.end(pod),
            Self::Reboot => scene.reboot(),
            Self::OnlyRecords => {
                let left = scene.left().into_iter();
                left.filter(|line| !line.starts_with("+ file eni-cni/"))
                    .collect()
            }
        }
    }
}

/// What is wrong with an ADD that was refused: it must say why.
fn refused(scene: &Scene, output: &Output) -> Option<String> {
    let error = serde_json::from_str(&output.stdout);
    let is_clear = error.is_ok_and(|error| names_something(&error));
    let is_wrong = scene.maker() == Maker::Ours && !is_clear;
    is_wrong.then(|| format!("it is refused without a reason: {output}"))
}

/// The commands that failed.
pub(super) fn failed(outputs: &[Output]) -> Vec<String> {
    let failed = outputs.iter().filter(|output| output.status != Some(0));
    failed
        .map(|output| format!("it is not cleaned: {output}"))
        .collect()
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Del => "DEL",
            Self::Gc => "GC and DEL",
            Self::Again => "ADD again and DEL",
            Self::Next => "ADD of another pod and DEL of both",
            Self::GcAndNext => "GC, ADD of another pod and DEL of both",
            Self::NextAndGc => "ADD of another pod, GC, and DEL of both",
            Self::Crossing => "two pods that exchange their devices",
            Self::End => "the end of the namespace, ADD of another pod and a late DEL",
            Self::Reboot => "a reboot",
        })
    }
}
