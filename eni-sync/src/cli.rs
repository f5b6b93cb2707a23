//! The command line: what an operator and the node's service manager start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use common::error::Result;

use crate::agent;
use crate::aws::Aws;
use crate::configuration::Configuration;
use crate::install;
use crate::inventory;
use crate::ledger::Ledger;
use crate::reconcile;
use crate::registrar::Node;
use crate::release;
use crate::socket;

/// Makes the addresses of pods routable in the VPC
///
/// Executed by a container runtime, with CNI_COMMAND in its environment, it is a CNI
/// plugin. Otherwise it is this command line.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the plugins of this node until SIGTERM
    Agent {
        /// The configuration file; without it, no network is watched
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The socket that plugins hand their work to
        #[arg(long, value_name = "PATH", default_value = socket::PATH)]
        socket: PathBuf,
        /// Serve /metrics, /healthz and /readyz at this loopback address
        #[arg(long, value_name = "ADDRESS:PORT")]
        metrics: Option<SocketAddr>,
    },
    /// Put the plugins of an image into the node's directory
    Install {
        /// The directory that has the plugins
        #[arg(long, value_name = "DIRECTORY")]
        source: PathBuf,
        /// The directory that the runtime looks for plugins in
        #[arg(long, value_name = "DIRECTORY")]
        target: PathBuf,
    },
    /// Compare the ledger of this node with EC2, and repair what differs
    Sync {
        /// Do it once and end
        #[arg(long, required = true)]
        once: bool,
    },
}

/// Runs the command that the arguments name. Status 0 is success, 1 an error, 2 a wrong
/// argument.
pub(crate) fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Agent {
            config,
            socket,
            metrics,
        } => configuration(config, metrics)
            .and_then(|configuration| agent::run(configuration, &socket)),
        Command::Install { source, target } => install::run(&source, &target),
        Command::Sync { once: _ } => sync(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("eni-sync: {error}");
            ExitCode::FAILURE
        }
    }
}

fn configuration(path: Option<PathBuf>, metrics: Option<SocketAddr>) -> Result<Configuration> {
    let configuration = match path {
        Some(path) => Configuration::read(&path)?,
        None => Configuration::default(),
    };
    match metrics {
        Some(address) => configuration.with_metrics(address),
        None => Ok(configuration),
    }
}

fn sync() -> Result<()> {
    let aws = Aws::open()?;
    let ledger = Ledger::of_node();
    let inventory = inventory::discover(&aws)?;
    let node = Node {
        aws: &aws,
        ledger: &ledger,
        inventory: &inventory,
    };
    let report = reconcile::run(&node, Configuration::default().grace(), &mut |eni| {
        eprintln!("{} compared", eni.id)
    })?;
    release::release_all_due(&aws, &ledger)?;
    eprintln!("{report}");
    Ok(())
}
