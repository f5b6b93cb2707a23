//! Cycles of ADD and DEL with processes that are killed, and what has grown by then.
//!
//!     soak SUBJECT CYCLES [SEED]
//!
//! where SUBJECT is host-local, host-device, ipvlan or eni-sync.

use std::process::ExitCode;

use harness::fault::{Soak, Subject};

const USAGE: &str = "usage: soak host-local|host-device|ipvlan|eni-sync CYCLES [SEED]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(soak) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let growth = soak.run();
    println!(
        "{}: {} cycles with seed {}: {growth}",
        soak.subject, soak.cycles, soak.seed
    );
    growth.require_none();
    ExitCode::SUCCESS
}

fn parse(arguments: &[String]) -> Option<Soak> {
    let subject = match arguments.first()?.as_str() {
        "host-local" => Subject::HostLocal,
        "host-device" => Subject::HostDevice,
        "ipvlan" => Subject::Ipvlan,
        "eni-sync" => Subject::Registered,
        _ => return None,
    };
    let seed = arguments.get(2).map_or(Ok(1), |seed| seed.parse());
    Some(Soak {
        subject,
        cycles: arguments
            .get(1)?
            .parse()
            .ok()
            .filter(|cycles| *cycles > 0)?,
        seed: seed.ok()?,
    })
}
