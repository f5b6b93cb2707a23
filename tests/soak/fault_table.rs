//! What the plugins survive, and what the Go plugins do: a table of faults, of how often
//! each was tried, and of how often something was lost. It ends with a status that is
//! not 0 when one of ours has lost anything.
//!
//! `fault-table --help` has the options.

use std::process::ExitCode;

use clap::Parser;
use harness::fault::{Maker, Meeting, Race, Subject, Sweep, Tally};

/// Tries everything that can go wrong, at every system call.
#[derive(Debug, Parser)]
#[command(name = "fault-table", version)]
struct Options {
    /// Only ipvlan, on a kernel that has it; else only what needs none.
    #[arg(long)]
    ipvlan: bool,
    /// Only what is called so, such as host-device.
    #[arg(long, value_name = "PLUGIN")]
    only: Option<String>,
    /// Strike one system call of so many.
    #[arg(long, value_name = "N", default_value_t = 1)]
    every: usize,
    /// Strike those system calls, too, that change nothing.
    #[arg(long)]
    all_calls: bool,
    /// How often commands meet.
    #[arg(long, value_name = "N", default_value_t = 300)]
    rounds: usize,
    /// What decides when they do.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Do not try the Go plugins.
    #[arg(long)]
    ours_only: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    println!("| fault | tried | lost | tried with Go's | lost by Go's |");
    println!("|---|--:|--:|--:|--:|");
    let subjects: &[Subject] = match options.ipvlan {
        true => &[
            Subject::Ipvlan,
            Subject::RegisteredIpvlan,
            Subject::Nic,
            Subject::BoundNic,
        ],
        false => &[
            Subject::HostLocal,
            Subject::HostDevice,
            Subject::KeptDevice,
            Subject::Registered,
        ],
    };
    let is_wanted = |subject: &&Subject| {
        options
            .only
            .as_ref()
            .is_none_or(|n| *n == subject.to_string())
    };
    let lost: usize = subjects
        .iter()
        .filter(is_wanted)
        .map(|subject| sweeps(&options, *subject) + races(&options, *subject))
        .sum();
    match lost {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// One row a sweep; how often ours has lost something.
fn sweeps(options: &Options, subject: Subject) -> usize {
    let prepared = |sweep: Sweep| match options.all_calls {
        true => sweep.at_one_of(options.every).of_all_calls(),
        false => sweep.at_one_of(options.every),
    };
    let theirs = Sweep::of(subject, Maker::Go);
    let mut lost = 0;
    for ours in Sweep::of(subject, Maker::Ours) {
        let tally = prepared(ours).run();
        let is_same = |theirs: &&Sweep| theirs.to_string() == ours.to_string();
        let theirs = theirs.iter().find(is_same);
        let theirs = theirs.filter(|_| options.compares(subject));
        print_row(
            &ours.to_string(),
            &tally,
            theirs.map(|sweep| prepared(*sweep).run()),
        );
        lost += tally.lost.len();
    }
    lost
}

fn races(options: &Options, subject: Subject) -> usize {
    let mut lost = 0;
    for meeting in Meeting::of(subject, Maker::Ours) {
        let race = |maker| Race {
            subject,
            maker,
            meeting,
            rounds: meeting.rounds(options.rounds),
            seed: options.seed,
        };
        let ours = race(Maker::Ours);
        let tally = ours.run();
        let is_theirs = Meeting::of(subject, Maker::Go).contains(&meeting);
        let theirs = (is_theirs && options.compares(subject)).then(|| race(Maker::Go).run());
        print_row(&ours.to_string(), &tally, theirs);
        lost += tally.lost.len();
    }
    lost
}

impl Options {
    /// There is nothing to compare eni-sync with, nor the keys that are ours.
    fn compares(&self, subject: Subject) -> bool {
        let is_ours_too = matches!(
            subject,
            Subject::HostLocal | Subject::HostDevice | Subject::Ipvlan
        );
        !self.ours_only && is_ours_too
    }
}

fn print_row(name: &str, ours: &Tally, theirs: Option<Tally>) {
    for lost in &ours.lost {
        eprintln!("{lost}\n");
    }
    // One example is enough of what is not ours to mend.
    if let Some(lost) = theirs.as_ref().and_then(|tally| tally.lost.first()) {
        eprintln!("of Go's plugins: {lost}\n");
    }
    let (tried, lost) = theirs.map_or(("-".to_owned(), "-".to_owned()), |tally| {
        (tally.tried.to_string(), tally.lost.len().to_string())
    });
    println!(
        "| {name} | {} | {} | {tried} | {lost} |",
        ours.tried,
        ours.lost.len()
    );
}
