//! What the agent logs where nobody looks at a terminal: JSON, one object in a line.

use serde_json::Value;

/// The events of a log, in order. What is not JSON was not logged.
pub fn events(log: &str) -> Vec<Value> {
    let lines = log.lines();
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(Value::is_object)
        .collect()
}

/// A log with the message of each event in the place of its JSON.
pub fn messages(log: &str) -> String {
    let message = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        event["message"].as_str().unwrap_or(line).to_owned() + "\n"
    };
    log.lines().map(message).collect()
}
