//! `eni-sync support-bundle`: one file with all that whoever helps an operator needs to know of
//! a node. It reads and never writes, but for the file; nothing in it is secret.

mod archive;
mod redact;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use common::attach::inventory;
use common::error::{Error, Result};
use common::files::file;
use common::say;
use nix::libc;

use self::archive::Archive;
use crate::agent::configuration::{CNI_PATH, DATA_DIR};
use crate::cli::{doctor, status};

/// What eni-sync and the plugins know.
const STATE: &str = "/var/lib/cni/eni-cni";
/// Where the DaemonSet has the agent's configuration.
const CONFIGURATION: &str = "/etc/eni-sync/agent.json";
/// The log file of plugins that the documents show, and the directory of pods' logs.
const LOG_FILE: &str = "/var/log/eni-cni.log";
const POD_LOGS: &str = "/var/log/pods";
/// What the kernel tells of interfaces, addresses and routes.
const NETWORK: [&str; 6] = ["dev", "route", "fib_trie", "if_inet6", "ipv6_route", "arp"];
/// What tells of the node itself.
const NODE: [&str; 4] = [
    "/proc/version",
    "/etc/os-release",
    "/proc/sys/kernel/random/boot_id",
    "/proc/uptime",
];
/// How much of a file is collected; of a log, its end.
const FILE_LIMIT: u64 = 256 << 10;
const LOG_LIMIT: u64 = 2 << 20;
/// How many files of one directory are collected.
const FILES: usize = 10_000;
/// How deep directories of state are: a plugin, a network, a record.
const DEPTH: usize = 3;

/// What to collect, and where to.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The file to write, which must not exist; `-` is stdout
    file: PathBuf,
    /// More log files: of plugins, by `logFile`, or of the agent
    #[arg(long, value_name = "FILE", num_args = 1..)]
    log: Vec<PathBuf>,
    /// A directory of CNI configurations, such as /etc/cni/net.d
    #[arg(long, value_name = "DIRECTORY")]
    cni_conf_dir: Option<PathBuf>,
    /// The configuration of the agent
    #[arg(long, value_name = "FILE", default_value = CONFIGURATION)]
    agent_config: PathBuf,
    /// The directory of the plugins
    #[arg(long, value_name = "DIRECTORY", default_value = CNI_PATH)]
    cni_path: PathBuf,
}

/// Writes the file.
///
/// # Errors
/// Code 5 naming it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let failed =
        |cause: io::Error| Error::io(format!("failed to write {:?}", options.file), &cause);
    if options.file == Path::new("-") {
        let written = write(options, io::stdout().lock()).map_err(failed)?;
        drop(written);
        return Ok(());
    }
    // Nobody may have put a link to another file there, as in /tmp.
    let mut create = OpenOptions::new();
    create.write(true).create_new(true).mode(0o600);
    let file = create.open(&options.file).map_err(failed)?;
    let written = write(options, file).and_then(|file| file.sync_all());
    if written.is_err() {
        // Half of it would be taken for the whole.
        fs::remove_file(&options.file).ok();
    }
    written.map_err(failed)?;
    say!("{} is written", options.file.display());
    Ok(())
}

fn write<W: Write>(options: &Options, to: W) -> io::Result<W> {
    let mut bundle = Bundle {
        archive: Archive::new(to),
        errors: String::new(),
    };
    bundle.commands(options)?;
    bundle.state(options)?;
    bundle.logs(options)?;
    let errors = std::mem::take(&mut bundle.errors);
    bundle.archive.add("errors.txt", errors.as_bytes())?;
    bundle.archive.finish()
}

/// What is collected, and what could not be.
struct Bundle<W: Write> {
    archive: Archive<W>,
    errors: String,
}

impl<W: Write> Bundle<W> {
    /// What the commands say.
    fn commands(&mut self, options: &Options) -> io::Result<()> {
        let version = concat!("eni-sync ", env!("CARGO_PKG_VERSION"), "\n");
        self.archive.add("version.txt", version.as_bytes())?;
        let status = status::report(&options.cni_path);
        self.documents("status", status)?;
        let configuration = &options.agent_config;
        let configuration = configuration.exists().then_some(configuration.as_path());
        let conf_dir = options.cni_conf_dir.as_deref();
        let report = doctor::report(conf_dir, configuration, &options.cni_path);
        self.documents("doctor", report)
    }

    /// What a command says, for people and as JSON.
    fn documents(&mut self, name: &str, said: Result<(String, String)>) -> io::Result<()> {
        match said {
            Ok((text, json)) => {
                let text = redact::text(&text);
                self.archive.add(&format!("{name}.txt"), text.as_bytes())?;
                let json = redact::content(json.as_bytes());
                self.archive.add(&format!("{name}.json"), &json)
            }
            Err(error) => {
                self.note(name, &error.to_string());
                Ok(())
            }
        }
    }

    /// What is on the disk, and what the kernel has.
    fn state(&mut self, options: &Options) -> io::Result<()> {
        for (directory, depth) in [(STATE, DEPTH), (inventory::DIRECTORY, 2), (DATA_DIR, 2)] {
            self.directory(Path::new(directory), depth)?;
        }
        if let Some(directory) = &options.cni_conf_dir {
            self.directory(directory, 1)?;
        }
        self.file(&options.agent_config)?;
        for path in NODE {
            self.file(Path::new(path))?;
        }
        for name in NETWORK {
            self.file(&Path::new("/proc/self/net").join(name))?;
        }
        self.links()
    }

    /// The interfaces of the node, a line each.
    fn links(&mut self) -> io::Result<()> {
        let mut text = String::new();
        for name in names(Path::new("/sys/class/net")).unwrap_or_default() {
            let link = Path::new("/sys/class/net").join(&name);
            let parameters = ["ifindex", "address", "operstate", "flags", "mtu", "ifalias"];
            let values = parameters.map(|parameter| {
                let value = file::read_parameter(&link.join(parameter));
                format!("{parameter}={}", value.unwrap_or_default())
            });
            text.push_str(&format!("{name} {}\n", values.join(" ")));
        }
        self.archive
            .add("links.txt", redact::text(&text).as_bytes())
    }

    /// The ends of the logs that there are.
    fn logs(&mut self, options: &Options) -> io::Result<()> {
        let mut logs = options.log.clone();
        logs.push(PathBuf::from(LOG_FILE));
        logs.extend(agent_logs());
        for log in logs {
            for path in [log.clone(), PathBuf::from(format!("{}.1", log.display()))] {
                match end(&path) {
                    Ok(content) => {
                        let content = redact::content(&content);
                        self.archive.add(&place(&path), &content)?;
                    }
                    Err(cause) if file::is_missing(&cause) => {}
                    Err(cause) => self.note(&place(&path), &cause.to_string()),
                }
            }
        }
        Ok(())
    }

    /// The files in a directory and below it.
    fn directory(&mut self, directory: &Path, depth: usize) -> io::Result<()> {
        let names = match names(directory) {
            Ok(names) => names,
            Err(cause) if file::is_missing(&cause) => return Ok(()),
            Err(cause) => {
                self.note(&place(directory), &cause.to_string());
                return Ok(());
            }
        };
        if names.len() > FILES {
            let left_out = format!("has {} files, of which {FILES} are here", names.len());
            self.note(&place(directory), &left_out);
        }
        for name in names.into_iter().take(FILES) {
            let path = directory.join(name);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() && depth > 1 => self.directory(&path, depth - 1)?,
                Ok(found) if found.is_file() => self.file(&path)?,
                // Sockets, links and whatever else has no content of its own.
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> io::Result<()> {
        match head(path) {
            Ok(content) => self.archive.add(&place(path), &redact::content(&content)),
            Err(cause) if file::is_missing(&cause) => Ok(()),
            Err(cause) => {
                self.note(&place(path), &cause.to_string());
                Ok(())
            }
        }
    }

    fn note(&mut self, what: &str, why: &str) {
        self.errors
            .push_str(&redact::text(&format!("{what}: {why}\n")));
    }
}

/// Where a file is in the archive.
fn place(path: &Path) -> String {
    format!(
        "node/{}",
        path.display().to_string().trim_start_matches('/')
    )
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Opens a file that has an end: nobody may make root wait for a FIFO.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "not a file")),
    }
}

fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open(path)?.take(FILE_LIMIT).read_to_end(&mut content)?;
    Ok(content)
}

fn end(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_LIMIT)))?;
    let mut content = Vec::new();
    file.take(LOG_LIMIT).read_to_end(&mut content)?;
    // The first line may begin within a character.
    let text = String::from_utf8_lossy(&content);
    Ok(text.into_owned().into_bytes())
}

/// The logs of the agent's containers, where the kubelet keeps them.
fn agent_logs() -> Vec<PathBuf> {
    let pods = names(Path::new(POD_LOGS)).unwrap_or_default();
    let agents = pods.iter().filter(|pod| pod.contains("_eni-sync-"));
    let mut logs = Vec::new();
    for agent in agents {
        let directory = Path::new(POD_LOGS).join(agent).join("agent");
        let files = names(&directory).unwrap_or_default();
        logs.extend(files.iter().map(|name| directory.join(name)));
    }
    logs
}
