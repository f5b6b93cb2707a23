//! The orders of commands that a runtime can send after a fault, and the conditions after
//! each of them.

use std::collections::BTreeSet;
use std::fmt;

use super::scene::{Maker, Scene, Subject};
use super::sweep::names_something;
use crate::Output;

/// The pod whose command has the fault, and another one of the same network.
pub(super) const STRUCK: usize = 0;
pub(super) const NEXT: usize = 1;

/// An order of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The runtime sends DEL.
    Del,
    /// GC without a valid attachment, and then DEL.
    Gc,
    /// ADD of the same attachment again.
    Again,
    /// ADD of another pod, with the same device if there is one, before the DEL.
    Next,
    /// GC without a valid attachment, and ADD of another pod.
    GcAndNext,
    /// ADD of another pod, and GC for which only that one is valid.
    NextAndGc,
    /// Two attached pods exchange their devices.
    Crossing,
    /// The pod's namespace ends, another pod gets the device, and DEL comes late.
    End,
    /// The machine reboots, another pod is attached and detached, and DEL comes late.
    Reboot,
}

/// One command, or an event between two.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// ADD of this pod, which may be refused.
    Add(usize),
    /// ADD of this pod, which must succeed.
    Serve(usize),
    /// DEL of this pod.
    Del(usize),
    /// GC for which only these pods are valid.
    Gc(&'static [usize]),
    /// From now on the pods get each other's device.
    Exchange,
    /// From now on the second pod gets the device of the first.
    Lend,
    /// The namespace of this pod ends.
    End(usize),
    /// The machine reboots.
    Reboot,
    /// Verifies that only records are left, which a late DEL finds.
    OnlyRecords,
}

impl Order {
    /// The possible orders: only our plugins have GC, only hardware devices outlive the
    /// namespace that they are in, and only devices can be exchanged.
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

    /// The number of pods that it needs.
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

    /// The steps, without the final DEL of each pod, which is always sent.
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

    /// Executes all steps, and returns the errors found meanwhile. A pod that was attached
    /// must keep its attachment until a command ends it.
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
                Err(output) => vec![format!("ADD has failed: {output}")],
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

/// An error if the ADD was refused without a clear reason.
fn refused(scene: &Scene, output: &Output) -> Option<String> {
    let error = serde_json::from_str(&output.stdout);
    let is_clear = error.is_ok_and(|error| names_something(&error));
    let is_wrong = scene.maker() == Maker::Ours && !is_clear;
    is_wrong.then(|| format!("ADD was refused without a reason: {output}"))
}

/// The commands that failed.
pub(super) fn failed(outputs: &[Output]) -> Vec<String> {
    let failed = outputs.iter().filter(|output| output.status != Some(0));
    failed
        .map(|output| format!("the clean-up has failed: {output}"))
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
