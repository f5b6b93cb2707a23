//! eni-lab as a program: a simulated VPC on loopback to try eni-sync with, without an
//! account. It prints what to export, then serves until SIGTERM or SIGINT.

mod options;
mod vpc;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use options::Options;
use vpc::Served;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("eni-lab: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| format!("cannot wait for signals: {cause}"))?;
    // Whoever reads what is printed may send a signal at once.
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
