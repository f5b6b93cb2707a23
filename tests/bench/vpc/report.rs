//! What was measured, as a table for people and as JSON.

use serde_json::{Value, json};

use crate::measure::Measured;
use crate::options::Scenario;

/// Prints the contenders of one scenario beside each other, as Markdown.
pub fn print_table(scenario: &Scenario, measured: &[Measured]) {
    println!("\n{scenario}\n");
    println!(
        "| {:18} | {:>9} | {:>6} | {:>8} | {:>8} | {:>9} | {:>14} | {:>14} | {:>4} | {:>8} | {:>7} | {:>11} |",
        "",
        "routable",
        "assign",
        "unassign",
        "describe",
        "throttled",
        "calls/100 pods",
        "calls/100 ADDs",
        "slow",
        "median s",
        "p99 s",
        "left behind",
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for m in measured {
        let seconds = |part| {
            m.quantile(part)
                .map_or("-".to_owned(), |s| format!("{s:.2}"))
        };
        println!(
            "| {:18} | {:>9} | {:>6} | {:>8} | {:>8} | {:>9} | {:>14.0} | {:>14.1} | {:>4} | {:>8} | {:>7} | {:>11} |",
            m.contender,
            format!("{}/{}", m.served, scenario.all_pods()),
            m.calls_of("Assign"),
            m.calls_of("Unassign"),
            m.calls_of("Describe"),
            m.throttled,
            calls_per_100(scenario, m.all_calls()),
            calls_per_100(scenario, m.starting),
            m.slow(),
            seconds(0.5),
            seconds(0.99),
            m.left_behind,
        );
    }
    for m in measured {
        for (why, count) in &m.failures {
            println!("{}: {count} pods not routable: {why}", m.contender);
        }
    }
}

/// One contender in one scenario.
pub fn document(scenario: &Scenario, m: &Measured) -> Value {
    json!({
        "contender": m.contender.to_string(),
        "nodes": scenario.nodes,
        "podsPerNode": scenario.pods,
        "podsPerSecond": scenario.rate,
        "routable": m.served,
        "notRoutable": m.failures,
        "calls": m.calls,
        "throttled": m.throttled,
        "callsPer100Pods": calls_per_100(scenario, m.all_calls()),
        "callsPer100Adds": calls_per_100(scenario, m.starting),
        "slow": m.slow(),
        "medianSeconds": m.quantile(0.5),
        "p99Seconds": m.quantile(0.99),
        "leftBehind": m.left_behind,
    })
}

#[expect(clippy::cast_precision_loss, reason = "there are few calls and pods")]
fn calls_per_100(scenario: &Scenario, calls: u64) -> f64 {
    calls as f64 * 100.0 / scenario.all_pods() as f64
}
