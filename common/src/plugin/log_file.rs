//! The log file that a network's configuration can name: a line for each command of each
//! plugin of the network. A command never fails because of its log. Without the key nothing
//! is done, and the kernel is not asked for anything.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::libc;
use rustix::process::geteuid;
use serde_json::Value;

use crate::cni::args::{Environment, pod};
use crate::cni::config::Document;
use crate::cni::result::AddResult;
use crate::cni::version::CniVersion;
use crate::error::Error;
use crate::files::file::FILE_MODE;
use crate::files::lock::Lock;
use crate::say;
use crate::text::field;
use crate::timestamp::rfc3339;

/// A file that has grown to this size gets the ending `.1`, in place of the one before it.
const LIMIT: u64 = 10 << 20;
/// How often a new file is begun when others do so at the same moment.
const TRIES: usize = 3;

/// What is written of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// A line when it fails.
    Error,
    /// A line in any case.
    Info,
    /// The same with the namespace and the whole result.
    Debug,
}

impl Level {
    /// The level of this name. Those that Multus knows besides mean the next one of ours.
    fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "panic" | "error" => Some(Self::Error),
            "warning" | "info" | "verbose" => Some(Self::Info),
            "debug" => Some(Self::Debug),
            _ => None,
        }
    }
}

/// A command that is to be written down when it is done.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    level: Level,
    /// What is known before the command is entered, as fields of the line.
    command: String,
    begin: Instant,
}

impl LogFile {
    /// The log of a command of `plugin`, where the network has one.
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

    /// Writes down how the command has ended.
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

/// The rest of the line: what the command has given or why it has failed.
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

/// A result as one field; it has been delivered, so it can be written.
fn whole(result: &AddResult) -> String {
    let text = result.to_json(CniVersion::LATEST).unwrap_or_default();
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    format!(" result={}", field(&value.to_string()))
}

/// Appends a line, in one piece, to a file that is not too large yet.
fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file = open(path)?;
    for _ in 0..TRIES {
        if file.metadata()?.len() < LIMIT {
            break;
        }
        begin_anew(path)?;
        file = open(path)?;
    }
    file.write_all(line.as_bytes())
}

/// Opens a file of ours, or makes it. Others who can write in its directory must not have us
/// write anywhere else: by a link of either kind, or into a file that they own.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    let is_ours = metadata.uid() == geteuid().as_raw() && metadata.nlink() <= 1;
    match metadata.is_file() && is_ours {
        true => Ok(file),
        false => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "it is not a regular file of this user with one name",
        )),
    }
}

/// Gives a file that is large enough its other name. Of those who come at the same moment
/// one does so: the others find a lock or a new file.
fn begin_anew(path: &Path) -> io::Result<()> {
    let Ok(Some(_lock)) = Lock::take_existing(path, Duration::ZERO) else {
        return Ok(());
    };
    if fs::symlink_metadata(path)?.len() < LIMIT {
        return Ok(());
    }
    let mut old = path.as_os_str().to_owned();
    old.push(".1");
    fs::rename(path, old)
}
