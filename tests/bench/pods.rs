//! What attaching the next pod costs on a node that has many already.

use std::ops::Range;

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
    let adds: Vec<Samples> = firsts.iter().map(|first| take("ADD", first)).collect();
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
        let curves = BOTH.map(|party| new_curve(step, party, &firsts, samples));
        report.curves.extend(curves);
    }
    report
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
fn new_curve(step: Step, party: Party, firsts: &[usize], samples: &[Samples]) -> Curve {
    let points = firsts.iter().zip(samples);
    let points = points.map(|(first, samples)| (*first as f64, samples.cpu(party, step)));
    Curve {
        what: format!("{step} CPU"),
        unit: "ms".to_owned(),
        of: "pods".to_owned(),
        party: party.name().to_owned(),
        points: points.collect(),
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
