//! The programs of this suite: the names that they are installed under, the text by which one is
//! recognised in its file, and whether a file is executable.

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;

/// The bits of a file's mode that allow its execution; one is enough.
const EXECUTABLE: u32 = 0o111;

/// Whether a file can be executed.
pub fn is_executable(file: &Metadata) -> bool {
    file.is_file() && file.permissions().mode() & EXECUTABLE != 0
}

/// The start of the [`marker!`](crate::marker) of the program `name`. Its version follows, up to
/// the end of the line.
pub fn marker_of(name: &str) -> String {
    format!("eni-cni plugin {name} version ")
}

/// The text by which the program of this name is recognised in its file. Software that looks for
/// installed plugins must not execute a file that may be another program. The about text shows
/// the marker.
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

/// The name of the program that contains all plugins.
pub const ALL_PLUGINS: &str = "eni-cni";
/// The plugins that are installed under the name of a Go plugin, and under a second name with
/// the prefix `eni-`.
pub const DROP_IN: [&str; 3] = ["host-device", "host-local", "ipvlan"];
/// The prefix of the second name.
const PREFIX: &str = "eni-";

/// The name with the prefix `eni-`, under which no other software installs a plugin.
pub fn own_name(plugin: &str) -> String {
    format!("{PREFIX}{plugin}")
}

/// The plugin that the `type` of a network names: without the prefix if it is one of
/// [`DROP_IN`], any other name unchanged.
pub fn of_type(name: &str) -> &str {
    let plugin = name.strip_prefix(PREFIX).unwrap_or(name);
    match DROP_IN.contains(&plugin) {
        true => plugin,
        false => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_recognised_by_either_name() {
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
