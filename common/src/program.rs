//! The programs of this suite: the names that they are installed under, the text by which one is
//! recognised in its file, and what makes a file a program.

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;

/// Some bit of these makes a file a program.
const EXECUTABLE: u32 = 0o111;

/// Whether a file can be executed.
pub fn is_executable(file: &Metadata) -> bool {
    file.is_file() && file.permissions().mode() & EXECUTABLE != 0
}

/// What begins the [`marker!`](crate::marker) of the program `name`, and its version follows,
/// up to the end of the line.
pub fn marker_of(name: &str) -> String {
    format!("eni-cni plugin {name} version ")
}

/// The text by which the program of this name is recognised in its file: who looks for what
/// is installed must not execute what may be another's program. The about text shows it.
#[macro_export]
macro_rules! marker {
    ($name:literal) => {
        concat!(
            "eni-cni plugin ",
            $name,
            " version ",
            env!("CARGO_PKG_VERSION"),
            "\n"
        )
    };
}

/// The program that has all plugins in it.
pub const ALL_PLUGINS: &str = "eni-cni";
/// The plugins that have the name of one of the Go plugins, and one of their own beside it.
pub const DROP_IN: [&str; 3] = ["host-device", "host-local", "ipvlan"];
/// What the name of its own has before that of the Go plugin.
const OWN: &str = "eni-";

/// The name that only this suite's program has, which nobody else installs over it.
pub fn own_name(plugin: &str) -> String {
    format!("{OWN}{plugin}")
}

/// The plugin that a network's `type` names, by whichever of its two names.
pub fn of_type(name: &str) -> &str {
    let plugin = name.strip_prefix(OWN).unwrap_or(name);
    match DROP_IN.contains(&plugin) {
        true => plugin,
        false => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_known_by_either_name() {
        for plugin in DROP_IN {
            assert_eq!(of_type(plugin), plugin);
            assert_eq!(of_type(&own_name(plugin)), plugin);
        }
        for other in ["eni-sync", "eni-bridge", "bridge", "eni-", ""] {
            assert_eq!(of_type(other), other);
        }
    }

    #[test]
    fn a_marker_begins_with_the_name_and_ends_with_the_version() {
        let version = format!("{}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(crate::marker!("ipvlan"), marker_of("ipvlan") + &version);
    }
}
