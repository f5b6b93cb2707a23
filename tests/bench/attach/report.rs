//! What is printed: a row of the table in docs/performance.md, and the calls by action.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use harness::eni_lab::{Event, InstanceId, Lab, Shown};

use crate::Ended;

/// Of `/proc/self/stat`.
const TICKS: f64 = 100.0;
/// EC2's code for a call that is too much for the account.
const THROTTLED: &str = "RequestLimitExceeded";

/// What became of the nodes.
pub struct Report<'a> {
    pub nodes: u32,
    /// How many each is to have.
    pub enis: u32,
    pub ended: &'a [Ended],
    pub most_calls: u64,
}

impl Report<'_> {
    pub fn print(&self, lab: &Lab) {
        for ended in self
            .ended
            .iter()
            .filter(|ended| !ended.output.status.success())
        {
            let said = String::from_utf8_lossy(&ended.output.stderr);
            println!("after {:.1} s: {said}", ended.after.as_secs_f64());
        }
        let (answered, throttled) = calls(lab);
        let sum = |calls: &BTreeMap<String, u32>| calls.values().sum::<u32>();
        println!(
            "{} nodes, {} ENIs each: {} of the nodes have exactly these",
            self.nodes,
            self.enis,
            self.complete(lab),
        );
        println!(
            "answered calls of a node {:.1}, throttled {} in all, in one second at most {}",
            f64::from(sum(&answered)) / f64::from(self.nodes),
            sum(&throttled),
            self.most_calls,
        );
        println!(
            "p50 {:.0} s, p99 {:.0} s, last {:.0} s; CPU {:.0} s here, {:.0} s in eni-sync",
            self.percentile(50).as_secs_f64(),
            self.percentile(99).as_secs_f64(),
            self.percentile(100).as_secs_f64(),
            cpu(11),
            cpu(13),
        );
        println!("answered {answered:?}, throttled {throttled:?}");
    }

    /// How many nodes have exactly what they are to have.
    fn complete(&self, lab: &Lab) -> usize {
        let mut enis: BTreeMap<InstanceId, usize> = BTreeMap::new();
        let of_pods = |eni: &Shown| eni.tags.contains_key("eni-cni/network");
        for eni in lab.all_enis().into_iter().filter(of_pods) {
            let instance = eni.instance.expect("each ENI is attached");
            *enis.entry(instance).or_default() += 1;
        }
        let expected = usize::try_from(self.enis).expect("there are few");
        enis.values().filter(|count| **count == expected).count()
    }

    fn percentile(&self, percent: usize) -> Duration {
        let mut times: Vec<Duration> = self.ended.iter().map(|ended| ended.after).collect();
        times.sort();
        let at = (times.len() * percent / 100).min(times.len() - 1);
        times[at]
    }
}

/// How many calls of each action EC2 has answered, and refused for their number.
fn calls(lab: &Lab) -> (BTreeMap<String, u32>, BTreeMap<String, u32>) {
    let (mut answered, mut throttled) = (BTreeMap::new(), BTreeMap::new());
    for event in lab.events() {
        if let Event::Called {
            action, outcome, ..
        } = event
        {
            let calls = match outcome == THROTTLED {
                true => &mut throttled,
                false => &mut answered,
            };
            *calls.entry(action).or_default() += 1;
        }
    }
    (answered, throttled)
}

/// Seconds of CPU, user and system, at a place of `/proc/self/stat` after the name and the next.
fn cpu(place: usize) -> f64 {
    let text = fs::read_to_string("/proc/self/stat").expect("/proc is mounted");
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let fields = after_name.split_whitespace().skip(place).take(2);
    let ticks = fields.map(|field| field.parse::<f64>().expect("it is a number"));
    ticks.sum::<f64>() / TICKS
}
