//! Our plugins beside Go's: the same work, in turns, in one run on one machine. Times
//! are medians, and what counts are their ratios; system calls and instructions repeat
//! exactly.
//!
//! What needs ipvlan is measured in the VM of the tests when this machine's kernel has
//! none: there the program executes itself. `bench --list` names what there is.

mod chart;
mod count;
mod crowd;
mod enis;
mod figure;
mod floor;
mod host_device;
mod host_local;
mod ipvlan;
mod limit;
mod node;
mod options;
mod parallel;
mod pods;
mod process;
mod processes;
mod programs;
mod records;
mod report;
mod rows;
mod samples;
mod site;
mod store;
mod taken;
mod throttled;
mod vm;

use std::time::Instant;

use clap::Parser;

use figure::Measured;
use options::Options;
use report::Machine;
use rows::Row;

fn main() {
    let options = Options::parse();
    let rows = options.rows();
    if options.list {
        return report::list(&rows);
    }
    if options.inside_vm {
        return vm::answer(rows.iter().map(|row| measure(row, &options)));
    }
    let machine = Machine::now();
    let (there, here): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(vm::is_needed_for);
    report::print_head();
    let here = here.iter().map(|row| measure(row, &options));
    let there = vm::measure(&there, &options);
    let measured: Vec<Measured> = here.chain(there).inspect(report::print_row).collect();
    report::print_summary(&measured, &machine);
    if let Some(directory) = options.output() {
        report::write(&measured, &machine, &directory);
        chart::draw(&measured, &directory);
    }
}

fn measure(row: &Row, options: &Options) -> Measured {
    eprintln!("{} …", row.name);
    let began = Instant::now();
    let report = (row.measure)(&options.effort());
    Measured {
        row: row.name.to_owned(),
        about: row.about.to_owned(),
        is_emulated: options.inside_vm,
        seconds: began.elapsed().as_secs_f64(),
        report,
    }
}
