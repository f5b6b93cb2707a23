//! What attaching the next pod costs on a node that has many already.

use std::ops::Range;

use crate::count;
use crate::crowd::{Crowd, Kind, NETWORKS};
use crate::figure::{Curve, Figure, Report};
use crate::options::Effort;
use crate::process::run;
use crate::samples::{BOTH, Limits, Party, Samples, Step};

/// Pods whose costs make one point of the curve.
const BIN: usize = 25;
/// How much more the last pods may cost than the first.
const FLAT: f64 = 1.2;

pub fn curve(effort: &Effort) -> Report {
    let pods = effort.size(250, 50);
    let crowds = BOTH.map(|party| Crowd::new(Kind::HostDevice, party, pods));
    let firsts: Vec<usize> = (0..pods).step_by(BIN).collect();
    let take = |step, first: &usize| take(step, *first..*first + BIN, &crowds);
    let mut memory = BOTH.map(|party| new_curve("ADD peak memory", "MB", party));
    let mut adds = Vec::new();
    for first in &firsts {
        adds.push(take("ADD", first));
        for (curve, crowd) in memory.iter_mut().zip(&crowds) {
            curve
                .points
                .push((number(*first), memory_of_add(crowd, *first)));
        }
    }
    // The last pods go first.
    let mut dels: Vec<Samples> = firsts
        .iter()
        .rev()
        .map(|first| take("DEL", first))
        .collect();
    dels.reverse();
    let mut report = Report::default();
    for (step, samples) in [("ADD", &adds), ("DEL", &dels)] {
        report.figures.extend(summarise(step, samples, pods));
        for party in BOTH {
            let points = firsts.iter().zip(samples);
            let points = points.map(|(first, of)| (number(*first), of.cpu(party, step)));
            report.curves.push(Curve {
                points: points.collect(),
                ..new_curve(&format!("{step} CPU"), "ms", party)
            });
        }
    }
    report.curves.extend(memory);
    report
}

/// Attaches the pod to its first network once more, beside all that are there by now.
fn memory_of_add(crowd: &Crowd, pod: usize) -> f64 {
    crowd.node.inside(|| {
        run(&crowd.call("DEL", pod, 0));
        count::peak_memory(&crowd.call("ADD", pod, 0))
    })
}

/// Executes a command for all networks of these pods, for both parties in turn.
fn take(step: Step, pods: Range<usize>, crowds: &[Crowd; 2]) -> Samples {
    let mut samples = Samples::default();
    for pod in pods {
        for party in BOTH {
            let crowd = &crowds[usize::from(party == Party::Go)];
            let costs = crowd.node.inside(|| {
                let cost = |network| run(&crowd.call(step, pod, network)).0;
                (0..NETWORKS).map(cost).collect::<Vec<_>>()
            });
            samples.add(party, costs.into_iter().map(|cost| (step, cost)));
        }
    }
    samples
}

#[expect(clippy::cast_precision_loss, reason = "there are a few hundred pods")]
fn number(pods: usize) -> f64 {
    pods as f64
}

fn new_curve(what: &str, unit: &str, party: Party) -> Curve {
    Curve {
        what: what.to_owned(),
        unit: unit.to_owned(),
        of: "pods".to_owned(),
        party: party.name().to_owned(),
        points: Vec::new(),
    }
}

/// The last pods beside Go's last pods and beside the own first ones.
fn summarise(step: Step, samples: &[Samples], pods: usize) -> Vec<Figure> {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        return Vec::new();
    };
    let rename = |figure: Figure| Figure {
        what: format!("{} at {pods} pods", figure.what),
        ..figure
    };
    let beside_go = last.beside_go(step, Limits::default()).map(rename);
    let cpu = Figure::new(
        format!("{step} CPU at {pods} pods"),
        "ms",
        last.cpu(Party::Ours, step),
    )
    .beside("ours, the first pods", first.cpu(Party::Ours, step))
    .at_most_times(FLAT);
    beside_go.into_iter().chain([cpu]).collect()
}
