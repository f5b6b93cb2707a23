//! The log file that a network's configuration can name: a line for each command of each
//! plugin of the network. A command never fails because of its log. Without the key nothing
//! is done, and no system call is made.

mod open;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use self::open::open;
use crate::cni::args::{Environment, pod};
use crate::cni::config::Document;
use crate::cni::result::AddResult;
use crate::cni::version::CniVersion;
use crate::error::Error;
use crate::files::lock::Lock;
use crate::say;
use crate::text::field;
use crate::timestamp::rfc3339;

/// A file of this size in bytes is renamed to a name with `.1` at the end, which replaces
/// the log before it.
const LIMIT: u64 = 10 << 20;
/// How often the rotation is tried when other processes rotate the file at the same moment.
const TRIES: usize = 3;

/// Which commands are written, and how much of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// A line for each command that fails.
    Error,
    /// A line for each command.
    Info,
    /// As `Info`, with the namespace and the whole result.
    Debug,
}

impl Level {
    /// The level with this name. The other levels of Multus mean the nearest one of these.
    fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "panic" | "error" => Some(Self::Error),
            "warning" | "info" | "verbose" => Some(Self::Info),
            "debug" => Some(Self::Debug),
            _ => None,
        }
    }
}

/// A command, whose line is written when it has ended.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    level: Level,
    /// The fields of the line that are known before the command is executed.
    command: String,
    begin: Instant,
}

impl LogFile {
    /// The log of a command of `plugin`, if the configuration of the network names a log
    /// file.
    pub(super) fn of(
        document: &Document,
        plugin: &str,
        network: &str,
        environment: &Environment,
    ) -> Option<Self> {
        let path = match document.get("logFile")? {
            Value::String(path) if path.is_empty() => return None,
            Value::String(path) if path.starts_with('/') => PathBuf::from(path),
            other => {
                say!("nothing is logged: logFile {other} is not an absolute path");
                return None;
            }
        };
        let level = document.get("logLevel").map_or(Level::Info, |value| {
            let named = value.as_str().and_then(Level::named);
            named.unwrap_or_else(|| {
                say!("logLevel {value} is not error, info or debug: info is logged");
                Level::Info
            })
        });
        Some(Self {
            path,
            level,
            command: describe(plugin, network, environment, level),
            begin: Instant::now(),
        })
    }

    /// Writes the line, with the outcome of the command.
    pub(super) fn write(&self, outcome: Result<Option<&AddResult>, &Error>) {
        if outcome.is_ok() && self.level < Level::Info {
            return;
        }
        let level = if outcome.is_ok() { "info" } else { "error" };
        let time = rfc3339(SystemTime::now());
        let took = self.begin.elapsed().as_millis();
        let (command, ending) = (&self.command, ending(outcome, self.level));
        let line = format!("time={time} level={level} {command} milliseconds={took}{ending}\n");
        if let Err(cause) = append(&self.path, &line) {
            say!("failed to write the log file {:?}: {cause}", self.path);
        }
    }
}

fn describe(plugin: &str, network: &str, environment: &Environment, level: Level) -> String {
    let mut text = format!(
        "plugin={} command={} network={}",
        field(plugin),
        field(&environment.command),
        field(network)
    );
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            text += &format!(" {name}={}", field(value));
        }
    };
    add("pod", &pod(&environment.cni_args).unwrap_or_default());
    if let (Some(container), Some(ifname)) = (&environment.container_id, &environment.ifname) {
        add("container", container.as_str());
        add("ifname", ifname.as_str());
    }
    if level == Level::Debug {
        add("netns", &environment.netns);
    }
    text
}

/// The rest of the line: the addresses of the result, or the error.
fn ending(outcome: Result<Option<&AddResult>, &Error>, level: Level) -> String {
    match outcome {
        Err(error) => format!(" code={} error={}", error.code.0, field(&error.to_string())),
        Ok(None) => String::new(),
        Ok(Some(result)) => {
            let addresses = result.ips.iter().map(|ip| ip.address.to_string());
            let addresses: Vec<String> = addresses.collect();
            let addresses = format!(" addresses={}", field(&addresses.join(",")));
            match level {
                Level::Debug => addresses + &whole(result),
                Level::Error | Level::Info => addresses,
            }
        }
    }
}

/// The result as one field. It was delivered before, so it can be printed.
fn whole(result: &AddResult) -> String {
    let text = result.to_json(CniVersion::LATEST).unwrap_or_default();
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    format!(" result={}", field(&value.to_string()))
}

/// Appends a line with one write, and rotates the file before if it is too large.
fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file = open(path)?;
    for _ in 0..TRIES {
        if file.metadata()?.len() < LIMIT {
            break;
        }
        rotate(path)?;
        file = open(path)?;
    }
    file.write_all(line.as_bytes())
}

/// Renames a file that has reached its limit, in place of an older log. If several processes do so
/// at the same moment, one succeeds: the others find the file locked or a new one.
fn rotate(path: &Path) -> io::Result<()> {
    let Ok(Some(_lock)) = Lock::take_existing(path, Duration::ZERO) else {
        return Ok(());
    };
    if fs::symlink_metadata(path)?.len() < LIMIT {
        return Ok(());
    }
    let mut old = path.as_os_str().to_owned();
    old.push(".1");
    let old = PathBuf::from(old);
    // One that is missing is made, and replaced at once.
    open(&old).map_err(|cause| io::Error::new(cause.kind(), format!("{old:?}: {cause}")))?;
    fs::rename(path, old)
}
