//! `eni-cni`: all plugins of this suite in one program, which is the plugin that it is called
//! as. Where one of them delegates to another one that is this very program, it is called and
//! not executed: an attachment takes one process.

mod about;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use common::cni::args::BuiltIn;
use common::plugin::{self, Commands};
use common::program;

/// The plugins, in alphabetical order.
const PLUGINS: [Commands; 3] = [
    host_device::commands::COMMANDS,
    host_local_ipam::commands::COMMANDS,
    ipvlan::commands::COMMANDS,
];

/// The plugins that others delegate to.
const DELEGATES: &[BuiltIn] = &[BuiltIn {
    name: host_local_ipam::NAME,
    serve: |environment, conf| {
        plugin::serve_built_in(&host_local_ipam::commands::COMMANDS, environment, conf)
    },
}];

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = file_name(arguments.next());
    let called_as = program::of_type(&name);
    match PLUGINS.iter().find(|plugin| plugin.name == called_as) {
        Some(plugin) => plugin::run(plugin, DELEGATES),
        None if plugin::is_called() => plugin::refuse(about::unknown(&name)),
        None => about::answer(arguments.next()),
    }
}

/// The name of the file that the program was started as.
fn file_name(program: Option<OsString>) -> String {
    let program = program.unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
