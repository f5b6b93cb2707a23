//! The output of the program when it is not executed under the name of a plugin.

use std::ffi::OsString;
use std::process::ExitCode;

use common::error::Error;
use common::plugin::tell;
use common::program::{ALL_PLUGINS as NAME, DROP_IN, own_name};
use common::say;

/// The exit status for an invalid command line, as in other programs.
const USAGE: u8 = 2;

/// Prints the answer to the first argument, or the help without one.
pub(crate) fn answer(argument: Option<OsString>) -> ExitCode {
    let argument = argument.unwrap_or_default();
    match argument.to_str() {
        Some("" | "--help" | "-h") => tell(&help()),
        Some("--version" | "-V") => tell(&format!("{NAME} {}\n", env!("CARGO_PKG_VERSION"))),
        _ => {
            say!("unexpected argument {argument:?}; see {NAME} --help");
            ExitCode::from(USAGE)
        }
    }
}

/// The error of a CNI command when `name` is not the name of a plugin.
pub(crate) fn unknown(name: &str) -> Error {
    let msg = format!("{name:?} is not the name of a plugin");
    let details = format!("this program is a plugin under the names {}", names());
    Error::config(msg).with_details(details)
}

fn help() -> String {
    format!(
        "{NAME} {}: the CNI plugins of this suite in one program.\n\n\
         A container runtime or Multus starts it under the name of a plugin: {}.\n\
         An IPAM plugin that is this program too is called in the same process.\n\n\
         Usage: {NAME} [--version | --help]\n\n\
         `eni-sync install` installs it under these names; `eni-sync doctor` says what is \
         installed.\n",
        env!("CARGO_PKG_VERSION"),
        names()
    )
}

fn names() -> String {
    let both = DROP_IN.map(|plugin| format!("{plugin}, {}", own_name(plugin)));
    both.join(", ")
}
