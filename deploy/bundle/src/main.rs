//! `eni-cni`: all plugins of this suite in one program. The name under which it is executed
//! selects the plugin. If a plugin delegates to another one whose file is this program, that
//! one is called in the same process, so an attachment needs one process only.

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

/// The plugins that other plugins delegate to.
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

/// The file name under which the program was started.
fn file_name(program: Option<OsString>) -> String {
    let program = program.unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
