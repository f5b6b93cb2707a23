//! The log of the agent when its stderr is not a terminal: JSON, one object in each line.

use serde_json::Value;

/// The events of a log, in order. Lines that are not JSON are not events.
pub fn events(log: &str) -> Vec<Value> {
    let lines = log.lines();
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(Value::is_object)
        .collect()
}

/// A log with the message of each event instead of its JSON.
pub fn messages(log: &str) -> String {
    let message = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        event["message"].as_str().unwrap_or(line).to_owned() + "\n"
    };
    log.lines().map(message).collect()
}
