//! What the agent and the command line log on stderr: one line per event, with the time, the
//! level and the fields of the event. A plugin does not log: its stderr belongs to the runtime.
//! Events without a subscriber cost nothing.
//!
//! Only events of `eni-sync` itself are logged. The SDK's debug events repeat whole requests,
//! which contain secrets.

use std::collections::VecDeque;
use std::fmt::{Debug, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use common::text::{field, hand_over, printable, printable_json};
use common::timestamp::rfc3339;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber, warn};

/// A change to an address, kept to be shown later.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// When it happened, in RFC 3339 as in the log.
    pub(crate) time: String,
    /// The message of the log event.
    pub(crate) what: String,
    /// The other fields of the event.
    pub(crate) fields: Vec<(&'static str, String)>,
}

/// How many changes are kept.
const CHANGES: usize = 100;
/// The module whose events are kept.
const JOURNAL: &str = "eni_sync::ledger::journal";
/// The last changes, the newest first.
static CHANGED: Mutex<VecDeque<Change>> = Mutex::new(VecDeque::new());

/// The last changes of this process, the newest first.
pub(crate) fn changes() -> Vec<Change> {
    let changed = CHANGED.lock().unwrap_or_else(PoisonError::into_inner);
    changed.iter().cloned().collect()
}

/// What the target of an event of ours begins with.
const TARGET: &str = "eni_sync";
/// The environment variable by which Rust programs are told what to log.
const VARIABLE: &str = "RUST_LOG";

/// What is logged, and how.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Log events of this level and more severe ones; without it, RUST_LOG sets the level
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<Level>,
    /// Log text or JSON; by default text on a terminal, and JSON elsewhere
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<Format>,
}

/// The least severe level that is logged.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// Begins to log: at the level of the options, else at that of `RUST_LOG`, else at `usual`.
pub(crate) fn begin(options: &Options, usual: Level) {
    let variable = std::env::var(VARIABLE).ok();
    let of_variable = variable.as_deref().and_then(level_in);
    let chosen = options.log_level.map(LevelFilter::from);
    let level = chosen.or(of_variable).unwrap_or(usual.into());
    let format = options
        .log_format
        .unwrap_or(match io::stderr().is_terminal() {
            true => Format::Text,
            false => Format::Json,
        });
    // This fails only if there is a subscriber already, and this process has no other.
    tracing::subscriber::set_global_default(Log { level, format }).ok();
}

/// Logs, as warnings, the messages of code that the plugins share. They are about failures that
/// did not stop the work.
pub(crate) fn listen() {
    hand_over(|line| warn!("{line}"));
}

/// The level in a list such as `warn,eni_sync=debug`: the level for this program, else the
/// level for all.
fn level_in(directives: &str) -> Option<LevelFilter> {
    let directives = directives.split(',').map(str::trim);
    let (ours, all): (Vec<_>, Vec<_>) = directives.partition(|one| one.contains('='));
    let ours = ours.iter().filter_map(|one| one.split_once('='));
    let mut ours = ours.filter(|(target, _)| *target == TARGET);
    let level = ours.next().map(|(_, level)| level);
    let level = level.or(all.last().copied())?;
    // `LevelFilter` parses an empty text as `error`, but an empty variable sets no level.
    (!level.is_empty()).then(|| level.parse().ok()).flatten()
}

/// Writes events to stderr.
struct Log {
    level: LevelFilter,
    format: Format,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        (*metadata.level() <= self.level && is_ours(metadata.target())) || is_change(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.max(LevelFilter::INFO))
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let time = rfc3339(SystemTime::now());
        let level = *event.metadata().level();
        if is_change(event.metadata()) {
            fields.keep(&time);
        }
        if level > self.level {
            return;
        }
        let line = match self.format {
            Format::Text => fields.text(&time, level),
            Format::Json => fields.json(&time, level),
        };
        // The work must not fail because stderr is closed.
        io::stderr().lock().write_all(line.as_bytes()).ok();
    }

    // We have no spans.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Whether an event is about an address. These are kept at every log level.
fn is_change(metadata: &Metadata<'_>) -> bool {
    metadata.target() == JOURNAL && *metadata.level() <= tracing::Level::INFO
}

fn is_ours(target: &str) -> bool {
    let rest = target.strip_prefix(TARGET);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The fields of an event, in order.
#[derive(Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), json!(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.push((field.name(), json!(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.push((field.name(), json!(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.push((field.name(), json!(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push((field.name(), json!(format!("{value:?}"))));
    }
}

impl Fields {
    /// Keeps the event as the newest change.
    fn keep(&self, time: &str) {
        let text = |value: &Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        let (message, others): (Vec<_>, Vec<_>) =
            self.0.iter().partition(|(name, _)| *name == "message");
        let change = Change {
            time: time.to_owned(),
            what: message.iter().map(|(_, value)| text(value)).collect(),
            fields: others
                .iter()
                .map(|(name, value)| (*name, text(value)))
                .collect(),
        };
        let mut changed = CHANGED.lock().unwrap_or_else(PoisonError::into_inner);
        changed.truncate(CHANGES - 1);
        changed.push_front(change);
    }

    /// One line of text. Values, which others may have chosen, are quoted so that they can
    /// neither end the line nor look like another field.
    fn text(&self, time: &str, level: tracing::Level) -> String {
        let mut line = format!("{time} {level:5}");
        let (messages, others): (Vec<_>, Vec<_>) =
            self.0.iter().partition(|(name, _)| *name == "message");
        for (_, message) in messages {
            // Writing to a string cannot fail.
            write!(line, " {}", printable(message.as_str().unwrap_or_default())).ok();
        }
        for (name, value) in others {
            let text = value.as_str().map(str::to_owned);
            let text = text.unwrap_or_else(|| value.to_string());
            write!(line, " {name}={}", field(&text)).ok();
        }
        line + "\n"
    }

    /// One JSON object in a line.
    fn json(self, time: &str, level: tracing::Level) -> String {
        let mut object = Map::new();
        object.insert("time".to_owned(), json!(time));
        object.insert("level".to_owned(), json!(level.as_str().to_lowercase()));
        let fields = self.0.into_iter();
        object.extend(fields.map(|(name, value)| (name.to_owned(), value)));
        printable_json(&Value::Object(object).to_string()) + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-11-27T02:40:00.000Z";

    fn fields() -> Fields {
        Fields(vec![
            ("message", json!("released")),
            ("address", json!("10.0.4.71")),
            ("pod", json!("a\n2026 INFO forged\u{202e}")),
            ("reason", json!("x address=10.0.4.72")),
            ("code", json!(11)),
        ])
    }

    #[test]
    fn a_field_neither_ends_a_line_nor_makes_another_field() {
        let text = fields().text(TIME, tracing::Level::INFO);
        assert_eq!(
            text,
            "2026-11-27T02:40:00.000Z INFO  released address=10.0.4.71 \
             pod=\"a\\n2026 INFO forged\\u202e\" reason=\"x address=10.0.4.72\" code=11\n"
        );
        let json = fields().json(TIME, tracing::Level::WARN);
        assert_eq!(json.lines().count(), 1);
        assert!(!json.contains('\u{202e}'), "{json}");
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["level"], "warn");
        assert_eq!(value["pod"], "a\n2026 INFO forged\u{202e}");
    }

    #[test]
    fn the_variable_names_a_level_for_all_or_for_us() {
        for (text, level) in [
            ("debug", Some(LevelFilter::DEBUG)),
            ("warn,eni_sync=trace", Some(LevelFilter::TRACE)),
            ("eni_sync=error, info", Some(LevelFilter::ERROR)),
            ("aws_smithy_runtime=trace,info", Some(LevelFilter::INFO)),
            ("hyper=trace", None),
            ("loud", None),
            ("", None),
        ] {
            assert_eq!(level_in(text), level, "{text}");
        }
    }

    #[test]
    fn what_the_sdk_says_is_never_logged() {
        assert!(is_ours("eni_sync") && is_ours("eni_sync::agent::keeper"));
        assert!(!is_ours("aws_sigv4::http_request") && !is_ours("eni_synchrotron"));
    }
}
