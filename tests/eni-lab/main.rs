//! The program `eni-lab`: a simulated VPC on loopback, to try eni-sync without an AWS account.
//! It prints the variables to export and serves until SIGTERM or SIGINT; or it opens a shell on
//! a node, attaches a pod there, or calls EC2.

mod call;
mod options;
mod pod;
mod shell;
mod vpc;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use options::{Options, Verb};
use pod::Pod;
use vpc::Served;

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.verb {
        None => serve(&options).map(|()| 0),
        Some(Verb::Shell { command }) => shell::run(&options, command),
        Some(verb) => verb.execute().map(|()| 0),
    };
    match done {
        Ok(status) => ExitCode::from(status),
        Err(message) => {
            eprintln!("eni-lab: {message}");
            ExitCode::FAILURE
        }
    }
}

impl Verb {
    fn execute(&self) -> Result<(), String> {
        match self {
            Self::Pod {
                network,
                name,
                delete: true,
            } => Pod::new(network, name)?.detach(),
            Self::Pod { network, name, .. } => {
                println!("{:#}", Pod::new(network, name)?.attach()?);
                Ok(())
            }
            Self::Ec2 {
                print,
                action,
                parameters,
            } => {
                let answer = call::ec2(action, parameters)?;
                let element = print.as_ref().map(|name| call::element(&answer, name));
                println!("{}", element.unwrap_or(Ok(&answer))?);
                Ok(())
            }
            Self::Shell { .. } => Ok(()),
        }
    }
}

fn serve(options: &Options) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| format!("cannot wait for signals: {cause}"))?;
    // A program that reads the output may send a signal at once.
    let signals = {
        let _inside = runtime.enter();
        signals().map_err(|cause| format!("cannot listen for signals: {cause}"))?
    };
    let served = Served::start(options)?;
    if options.json {
        println!("{:#}", served.json());
    } else {
        print!("{}", served.shell());
    }
    runtime.block_on(first(signals));
    Ok(())
}

fn signals() -> io::Result<(Signal, Signal)> {
    let terminate = signal(SignalKind::terminate())?;
    let interrupt = signal(SignalKind::interrupt())?;
    Ok((terminate, interrupt))
}

async fn first((mut terminate, mut interrupt): (Signal, Signal)) {
    std::future::poll_fn(|context| {
        let terminated = terminate.poll_recv(context).is_ready();
        let interrupted = interrupt.poll_recv(context).is_ready();
        if terminated || interrupted {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}
