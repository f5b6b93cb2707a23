//! The command line, for operators and the node's service manager.

mod attach;
mod detach;
mod doctor;
mod input;
mod install;
mod output;
mod page;
mod release;
mod status;
mod support_bundle;
mod sync;
mod uninstall;
mod whereabouts;

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use common::error::{Error, Result};
use common::files::file;
use common::say;
use nix::unistd::geteuid;

use self::page::Page;
use self::release::{Manner, Selection};
use crate::agent;
use crate::agent::configuration::Configuration;
use crate::log;
use crate::plugin::socket;
use crate::vpc::environment;

/// The mode of a manual page: every user may read it.
const PAGE_MODE: u32 = 0o644;
/// The exit status of most commands.
const EXIT_STATUS: &str = "Exit status:
  0  it is done
  1  it is not, and stderr says why
  2  an argument is wrong";

const DOCTOR_STATUS: &str = "Exit status:
  0  nothing is an error; there may be warnings
  1  something is an error, or could not be looked at
  2  an argument is wrong

Examples:
  eni-sync doctor
  kubectl get net-attach-def -A -o json | eni-sync doctor --nad -";

const ATTACH_STATUS: &str = "Exit status:
  0  the node has all of them
  1  some are missing, and stderr says why
  2  an argument is wrong";

const DETACH_STATUS: &str = "Exit status:
  0  they are deleted, or there were none
  1  some carry pods and stay: stdout says which; or an error: stderr says which
  2  an argument is wrong";

const WHEREABOUTS_STATUS: &str = "Exit status:
  0  the list is complete
  1  something of the dump cannot be understood, and stderr says what; there is no list
  2  an argument is wrong

Example:
  kubectl get ippools.whereabouts.cni.cncf.io,pods -A -o json | eni-sync whereabouts -";

const RELEASE_STATUS: &str = "Exit status:
  0  all that was selected has gone, or was not there
  1  some of it stays: stdout says what and why; or an error: stderr says which
  2  an argument is wrong";

/// Makes the addresses of pods routable in the VPC
///
/// Executed by a container runtime, with CNI_COMMAND in its environment, it is a CNI
/// plugin. Otherwise it is this command line.
#[derive(Parser)]
#[command(version, after_help = EXIT_STATUS)]
#[command(styles = clap::builder::styling::Styles::styled())]
struct Cli {
    #[command(flatten)]
    log: log::Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the plugins of this node until SIGTERM
    #[command(after_help = EXIT_STATUS)]
    Agent {
        /// The configuration file; without it, no network is watched
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The socket on which plugins send their requests
        #[arg(long, value_name = "PATH", default_value = socket::PATH)]
        socket: PathBuf,
        /// Serve /metrics at this address, and /healthz and /readyz to the node itself
        #[arg(long, value_name = "ADDRESS:PORT")]
        metrics: Option<SocketAddr>,
    },
    /// Create and attach the ENIs that a configuration names, and set them up
    ///
    /// To be started before the kubelet. ENIs that are attached already are not changed, and
    /// what an earlier run has begun is completed.
    #[command(after_help = ATTACH_STATUS)]
    Attach(attach::Options),
    /// Detach and delete the ENIs of this node that its configuration does not name any more
    ///
    /// An ENI that carries pods stays, and the pods are named.
    #[command(after_help = DETACH_STATUS)]
    Detach(detach::Options),
    /// Put the plugins of an image into the node's directory
    #[command(after_help = EXIT_STATUS)]
    Install {
        /// The directory that has the plugins
        #[arg(long, value_name = "DIRECTORY")]
        source: PathBuf,
        /// The directory that the runtime looks for plugins in
        #[arg(long, value_name = "DIRECTORY")]
        target: PathBuf,
    },
    /// Remove eni-sync from this node, and restore what was there before
    ///
    /// Releases the addresses, and removes the programs and their state. Refuses while pods are
    /// attached or the agent runs.
    #[command(after_help = EXIT_STATUS)]
    Uninstall(uninstall::Options),
    /// Write one file with everything that is needed to help with this node
    ///
    /// State, records, ledger, links, logs, versions, and the output of status and doctor.
    /// Secrets are left out.
    #[command(after_help = EXIT_STATUS)]
    SupportBundle(support_bundle::Options),
    /// Show the addresses of this node's ENIs, their states and their owners
    ///
    /// Also the holder of each of its slots. Reads the ledger, the inventory and the kernel,
    /// and changes nothing. AWS is not asked.
    #[command(after_help = EXIT_STATUS)]
    Status(status::Options),
    /// Check everything that pods' addresses depend on, and say what to do
    ///
    /// Reads and never writes, neither on the node nor in AWS. Without --nad and
    /// --cni-conf-dir, it checks the networks in /etc/cni/net.d and those of the pods that are
    /// running.
    #[command(after_help = DOCTOR_STATUS)]
    Doctor(doctor::Options),
    /// Compare the ledger of this node with EC2, and repair the differences
    #[command(after_help = EXIT_STATUS)]
    Sync {
        /// Do it once and end
        #[arg(long, required = true)]
        once: bool,
    },
    /// Release addresses or prefixes that no pod needs any more, without waiting for their
    /// cool-down
    ///
    /// An address of an existing attachment or of any pod is never released, nor a prefix that
    /// contains one. An address without a known owner, or of a pool, is released only with
    /// --force.
    #[command(after_help = RELEASE_STATUS)]
    Release {
        #[command(flatten)]
        selection: Selection,
        #[command(flatten)]
        manner: Manner,
    },
    /// Print the addresses that whereabouts has reserved, for the key exclude of host-local and of the agent
    ///
    /// Reads a dump of its reservations, and of the pods, and makes no requests. If the dump
    /// has pods, the reservations of other pods are left out.
    #[command(after_help = WHEREABOUTS_STATUS)]
    Whereabouts(whereabouts::Options),
    /// Print the completions of a shell
    #[command(after_help = EXIT_STATUS)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page of eni-sync, or of one of its commands
    #[command(after_help = EXIT_STATUS)]
    Man {
        /// The command
        command: Option<String>,
        /// Write the pages of all commands into this directory instead
        #[arg(long, value_name = "DIRECTORY", conflicts_with = "command")]
        to: Option<PathBuf>,
    },
}

/// Runs the command that the arguments name, whose exit status `--help` describes.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    if is_in_place_of_agent(&cli.command) {
        environment::adopt();
    }
    begin_log(&cli);
    let outcome = execute(cli.command);
    outcome.unwrap_or_else(|error| {
        say!("eni-sync: {error}");
        ExitCode::FAILURE
    })
}

/// Prints the commands to stderr, if none is given.
pub(crate) fn help() {
    for line in Cli::command().render_help().to_string().lines() {
        say!("{line}");
    }
}

/// Begins to log. The output of a command is for the operator, so only warnings are logged; the
/// agent has only its log.
fn begin_log(cli: &Cli) {
    match cli.command {
        Command::Agent { .. } => {
            log::begin(&cli.log, log::Level::Info);
            log::listen();
        }
        _ => log::begin(&cli.log, log::Level::Warn),
    }
}

fn execute(command: Command) -> Result<ExitCode> {
    let done = |outcome: Result<()>| outcome.map(|()| ExitCode::SUCCESS);
    if is_in_place_of_agent(&command) {
        require_root()?;
    }
    match command {
        Command::Agent {
            config,
            socket,
            metrics,
        } => {
            let configuration = configuration(config.clone(), metrics)?;
            let plugins = configuration.plugin_directory().to_owned();
            let page = Page::new(config, plugins);
            let html = Box::new(move |wrong: &[String]| page.html(wrong));
            done(agent::run(configuration, &socket, html))
        }
        Command::Attach(options) => attach::run(&options),
        Command::Detach(options) => detach::run(&options),
        Command::Install { source, target } => done(install::run(&source, &target)),
        Command::Status(options) => done(status::run(&options)),
        Command::Doctor(options) => doctor::run(&options),
        Command::Uninstall(options) => uninstall::run(&options),
        Command::SupportBundle(options) => done(support_bundle::run(&options)),
        Command::Sync { once: _ } => done(sync::once()),
        Command::Release { selection, manner } => release::run(&selection, &manner),
        Command::Whereabouts(options) => done(whereabouts::run(&options)),
        Command::Completions { shell } => done(completions(shell)),
        Command::Man { to: Some(to), .. } => done(manuals(&to)),
        Command::Man { command, to: None } => done(manual(command.as_deref())),
    }
}

/// Whether the command does work of the agent: it needs root, and the agent's settings for
/// reaching AWS. The agent itself may have these by other means.
fn is_in_place_of_agent(command: &Command) -> bool {
    match command {
        Command::Attach(_)
        | Command::Detach(_)
        | Command::Status(_)
        | Command::Doctor(_)
        | Command::Uninstall(_)
        | Command::SupportBundle(_)
        | Command::Sync { .. }
        | Command::Release { .. } => true,
        Command::Agent { .. }
        | Command::Install { .. }
        | Command::Whereabouts(_)
        | Command::Completions { .. }
        | Command::Man { .. } => false,
    }
}

/// Checks that root runs the command: the ledger, the agent's socket and the namespaces of pods
/// are only accessible to root.
fn require_root() -> Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    let details = "the ledger, the agent's socket and the namespaces of pods are root's";
    Err(Error::config("only root can do this").with_details(details))
}

fn configuration(path: Option<PathBuf>, metrics: Option<SocketAddr>) -> Result<Configuration> {
    let configuration = match path {
        Some(path) => Configuration::read(&path)?,
        None => Configuration::default(),
    };
    Ok(match metrics {
        Some(address) => configuration.with_metrics(address),
        None => configuration,
    })
}

fn completions(shell: Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "eni-sync", &mut text);
    output::print(&text)
}

/// Writes a manual page for each command.
fn manuals(directory: &Path) -> Result<()> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    write_manuals(&cli, directory)
        .map_err(|cause| Error::io(format!("failed to write into {directory:?}"), &cause))
}

/// Writes the page of a command and those of its own commands. The directory may belong to
/// another user, so a symbolic link in it is replaced.
fn write_manuals(command: &clap::Command, directory: &Path) -> io::Result<()> {
    for command in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        write_manuals(command, directory)?;
    }
    let page = clap_mangen::Man::new(command.clone());
    let mut text = Vec::new();
    page.render(&mut text)?;
    file::replace_noted(&directory.join(page.get_filename()), &text, |file| {
        // Whoever has written it can read it in any case.
        file.set_permissions(Permissions::from_mode(PAGE_MODE)).ok();
    })
}

fn manual(name: Option<&str>) -> Result<()> {
    let mut cli = Cli::command();
    cli.build();
    let command = match name {
        None => Some(&cli),
        Some(name) => cli.find_subcommand(name),
    };
    let unknown = || {
        Error::config(format!(
            "there is no command {:?}",
            name.unwrap_or_default()
        ))
    };
    let page = clap_mangen::Man::new(command.ok_or_else(unknown)?.clone());
    let mut text = Vec::new();
    page.render(&mut text)
        .map_err(|cause| Error::io("failed to write the manual page", &cause))?;
    output::print(&text)
}
