//! `eni-sync support-bundle`: one file with everything that is needed to help an operator with
//! a node. It reads and never writes, apart from the file; secrets that are recognised by their
//! name or form are left out.

mod archive;
mod collect;
mod redact;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use common::attach::inventory;
use common::error::{Error, Result};
use common::files::file;
use common::records;
use common::say;
use common::text::printable;

use self::archive::Archive;
use self::collect::place;
use crate::agent::configuration::{self, CNI_PATH, DATA_DIR};
use crate::cli::{doctor, status};

/// The log file of plugins that the documents show, and the directory of pods' logs.
const LOG_FILE: &str = "/var/log/eni-cni.log";
const POD_LOGS: &str = "/var/log/pods";
/// The kernel's interfaces.
const LINKS: &str = "/sys/class/net";
/// The kernel's files about interfaces, addresses and routes.
const NETWORK: [&str; 6] = ["dev", "route", "fib_trie", "if_inet6", "ipv6_route", "arp"];
/// The files about the node itself.
const NODE: [&str; 4] = [
    "/proc/version",
    "/etc/os-release",
    "/proc/sys/kernel/random/boot_id",
    "/proc/uptime",
];
/// How many files of one directory are collected.
const FILES: usize = 10_000;
/// The depth of directories of state: a plugin, a network, a record.
const DEPTH: usize = 3;

/// The options of `eni-sync support-bundle`.
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
    #[arg(long, value_name = "FILE", default_value = configuration::PATH)]
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
    // The file must be new: in a directory such as /tmp, another user may have put a link to
    // another file there.
    let mut create = OpenOptions::new();
    create.write(true).create_new(true).mode(0o600);
    let file = create.open(&options.file).map_err(failed)?;
    let written = write(options, file).and_then(|file| file.sync_all());
    if written.is_err() {
        // An incomplete file might be taken for a complete one.
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
    bundle.archive.finish(&bundle.errors)
}

/// The archive, and the errors.
struct Bundle<W: Write> {
    archive: Archive<W>,
    errors: String,
}

impl<W: Write> Bundle<W> {
    /// The output of the commands.
    fn commands(&mut self, options: &Options) -> io::Result<()> {
        let version = concat!("eni-sync ", env!("CARGO_PKG_VERSION"), "\n");
        self.archive.add("version.txt", version.as_bytes())?;
        let configuration = &options.agent_config;
        let configuration = configuration.exists().then_some(configuration.as_path());
        let status = status::report(&options.cni_path, configuration);
        self.documents("status", status)?;
        let conf_dir = options.cni_conf_dir.as_deref();
        let report = doctor::report(conf_dir, configuration, &options.cni_path);
        self.documents("doctor", report)
    }

    /// The output of a command, as text and as JSON.
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

    /// The state on the disk and in the kernel.
    fn state(&mut self, options: &Options) -> io::Result<()> {
        let own = [
            (records::ROOT, DEPTH),
            (inventory::DIRECTORY, 2),
            (DATA_DIR, 2),
        ];
        for (directory, depth) in own {
            self.directory(Path::new(directory), depth)?;
        }
        if let Some(directory) = &options.cni_conf_dir {
            self.directory(directory, 1)?;
        }
        self.named(&options.agent_config)?;
        for path in NODE {
            self.named(Path::new(path))?;
        }
        for name in NETWORK {
            self.file(&Path::new("/proc/self/net").join(name))?;
        }
        self.links()
    }

    /// The interfaces of the node, one per line.
    fn links(&mut self) -> io::Result<()> {
        let mut text = String::new();
        for name in self.names(Path::new(LINKS)) {
            let link = Path::new(LINKS).join(&name);
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

    /// The ends of the existing logs.
    fn logs(&mut self, options: &Options) -> io::Result<()> {
        for log in &options.log {
            if !self.log(log)? {
                self.note(&place(log), "there is no such file");
            }
        }
        let mut logs = vec![PathBuf::from(LOG_FILE)];
        logs.extend(self.agent_logs());
        let is_known = |log: &PathBuf| !options.log.contains(log);
        for log in logs.into_iter().filter(is_known) {
            self.log(&log)?;
        }
        Ok(())
    }

    /// The end of a log and of the rotated file before it. Returns whether there is one.
    fn log(&mut self, log: &Path) -> io::Result<bool> {
        let mut is_any = false;
        for path in [
            log.to_owned(),
            PathBuf::from(format!("{}.1", log.display())),
        ] {
            match collect::end(&path) {
                Err(cause) if file::is_missing(&cause) => continue,
                Err(cause) => self.note(&place(&path), &cause.to_string()),
                Ok(content) => self
                    .archive
                    .add(&place(&path), &redact::content(&content))?,
            }
            is_any = true;
        }
        Ok(is_any)
    }

    /// The logs of the agent's containers, where the kubelet keeps them.
    fn agent_logs(&mut self) -> Vec<PathBuf> {
        let mut logs = Vec::new();
        for pod in self.names(Path::new(POD_LOGS)) {
            if pod.contains("_eni-sync-") {
                let directory = Path::new(POD_LOGS).join(pod).join("agent");
                let names = self.names(&directory).into_iter();
                logs.extend(names.map(|name| directory.join(name)));
            }
        }
        logs
    }

    /// The files in a directory and below it.
    fn directory(&mut self, directory: &Path, depth: usize) -> io::Result<()> {
        for name in self.names(directory) {
            let path = directory.join(name);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() && depth > 1 => self.directory(&path, depth - 1)?,
                Ok(found) if found.is_file() => self.file(&path)?,
                // Sockets, links and other special files have no content of their own.
                _ => {}
            }
        }
        Ok(())
    }

    /// The names in a directory, as many as are collected.
    fn names(&mut self, directory: &Path) -> Vec<String> {
        let (mut names, others) = match collect::names(directory) {
            Ok(names) => names,
            Err(cause) => {
                if !file::is_missing(&cause) {
                    self.note(&place(directory), &cause.to_string());
                }
                return Vec::new();
            }
        };
        if others > 0 {
            let left_out = format!("has {others} files whose names are not text");
            self.note(&place(directory), &left_out);
        }
        if names.len() > FILES {
            let left_out = format!("has {} files, of which {FILES} are here", names.len());
            self.note(&place(directory), &left_out);
            names.truncate(FILES);
        }
        names
    }

    /// A file that is given by its name, which may be a link, as in a ConfigMap.
    fn named(&mut self, path: &Path) -> io::Result<()> {
        let read = fs::canonicalize(path).and_then(|path| collect::head(&path));
        self.add(path, read)
    }

    fn file(&mut self, path: &Path) -> io::Result<()> {
        self.add(path, collect::head(path))
    }

    fn add(&mut self, path: &Path, read: io::Result<(Vec<u8>, bool)>) -> io::Result<()> {
        match read {
            Ok((content, is_more)) => {
                if is_more {
                    self.note(&place(path), "only the beginning is here");
                }
                self.archive.add(&place(path), &redact::content(&content))
            }
            Err(cause) if file::is_missing(&cause) => Ok(()),
            Err(cause) => {
                self.note(&place(path), &cause.to_string());
                Ok(())
            }
        }
    }

    fn note(&mut self, what: &str, why: &str) {
        let line = redact::text(&format!("{what}: {why}"));
        self.errors.push_str(&format!("{}\n", printable(&line)));
    }
}
