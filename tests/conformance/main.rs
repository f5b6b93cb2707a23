//! Examines CNI plugins from outside: 63 assertions about the protocol, ADD, DEL, CHECK,
//! STATUS, GC and calls that overlap, applied to any binaries, and a table of what came.
//! `README.md` beside this file is for those who run it on plugins of their own.

mod add;
mod add_options;
mod assertion;
mod check_status_gc;
mod concurrency;
mod del;
mod failed_add;
mod garbage;
mod held;
mod options;
mod plugin;
mod protocol;
mod report;
mod runtimes;
mod scene;
mod strace;
mod surroundings;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use clap::Parser;

use crate::assertion::Assertion;
use crate::options::Options;
use crate::plugin::Plugin;
use crate::report::{Column, Entry, Outcome};
use crate::scene::Scene;

/// How many assertions are applied at the same time: most of them wait.
const THREADS: usize = 4;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(cause) => {
            eprintln!("conformance: {cause}");
            ExitCode::from(2)
        }
    }
}

/// Whether no assertion has failed.
fn run(options: &Options) -> Result<bool, String> {
    let wanted =
        |a: &&Assertion| options.assertion.is_empty() || options.assertion.contains(&a.number);
    let assertions: Vec<&Assertion> = assertion::all().into_iter().filter(wanted).collect();
    if options.list {
        for assertion in assertions {
            println!("{} {}", assertion.number, assertion.sentence);
        }
        return Ok(true);
    }
    let mut columns = Vec::new();
    for path in &options.with {
        columns.extend(report::read(path)?);
    }
    if !options.show {
        columns.extend(examine_all(options, &assertions)?);
    }
    print!("{}", report::text(&assertions, &columns));
    Ok(!columns.iter().any(Column::has_failed))
}

fn examine_all(options: &Options, assertions: &[&Assertion]) -> Result<Vec<Column>, String> {
    let plugins = options.plugins()?;
    // What a part of an assertion cannot do is told in the report.
    panic::set_hook(Box::new(|_| {}));
    for plugin in &plugins {
        guarded(|| drop(Scene::new(plugin))).map_err(|cause| {
            format!("cannot prepare a node for {:?} (this needs root, iproute2 and a kernel with its link type): {cause}", plugin.name)
        })?;
    }
    let columns: Vec<Column> = plugins
        .iter()
        .map(|plugin| Column {
            plugin: plugin.name.clone(),
            label: options.label.clone(),
            entries: examine(plugin, assertions),
            notes: plugin.notes(),
        })
        .collect();
    if let Some(path) = &options.json {
        report::write(path, &columns)?;
    }
    Ok(columns)
}

/// Applies the assertions to a plugin, several at the same time.
fn examine(plugin: &Plugin, assertions: &[&Assertion]) -> Vec<Entry> {
    let waiting = Mutex::new(assertions.iter());
    let next = || {
        waiting
            .lock()
            .ok()
            .and_then(|mut assertions| assertions.next())
    };
    let work = || {
        let mut entries = Vec::new();
        while let Some(assertion) = next() {
            let outcome = apply(assertion, plugin);
            entries.push(Entry {
                number: assertion.number,
                outcome,
            });
        }
        entries
    };
    let mut entries: Vec<Entry> = thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .filter_map(|worker| worker.join().ok())
            .flatten()
            .collect()
    });
    entries.sort_by_key(|entry| entry.number);
    entries
}

fn apply(assertion: &Assertion, plugin: &Plugin) -> Outcome {
    if let Some(reason) = assertion.about.reason_against(plugin) {
        return Outcome::NotApplicable(reason.to_owned());
    }
    match guarded(|| (assertion.apply)(plugin)).and_then(|verdict| verdict) {
        Ok(()) => Outcome::Pass,
        Err(reason) => Outcome::Fail(reason),
    }
}

/// What `work` returns, or with what it panicked, as the harness does.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "it panicked".to_owned())
    })
}
