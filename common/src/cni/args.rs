//! The input that the runtime passes in the environment: the command and the attachment that
//! it is for. Values are validated here once and are always valid afterwards.

use serde_json::Value;

use crate::cni::config::Document;
use crate::cni::identifier::ContainerId;
use crate::cni::result::AddResult;
use crate::cni::version::CniVersion;
use crate::error::{Error, ErrorCode, Result};
use crate::ifname::IfName;
use crate::program::of_type;

/// A CNI command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach the container to the network.
    Add,
    /// Verify that the attachment is as ADD left it.
    Check,
    /// Remove the attachment.
    Del,
    /// Report whether an ADD could be served.
    Status,
    /// Remove every attachment that is not listed as valid.
    Gc,
    /// Report the supported versions.
    Version,
}

impl Command {
    const ALL: [Self; 6] = [
        Self::Add,
        Self::Check,
        Self::Del,
        Self::Status,
        Self::Gc,
        Self::Version,
    ];

    /// The command as written in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }

    /// The command with exactly this text.
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.as_str() == text)
    }

    /// Whether the command is about one attachment.
    fn has_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Check | Self::Del)
    }
}

/// The input of ADD, CHECK and DEL: one attachment of one container.
#[derive(Clone, Debug)]
pub struct CmdArgs {
    /// `CNI_CONTAINERID`.
    pub container_id: ContainerId,
    /// `CNI_IFNAME`: the interface's name inside the container.
    pub ifname: IfName,
    /// `CNI_NETNS`: path of the container's network namespace. Empty only on
    /// DEL, when the runtime knows that the namespace is gone.
    pub netns: String,
    /// `CNI_ARGS`: `KEY=VALUE` pairs separated by `;`, unparsed.
    pub cni_args: String,
    /// The input that all commands have.
    pub conf: ConfArgs,
}

/// The input of STATUS and GC, and the part of it that every command has.
#[derive(Clone, Debug)]
pub struct ConfArgs {
    /// The network's name: a letter or digit, then letters, digits, `_`, `.`, `-`.
    pub network: String,
    /// Where the plugin finds the plugins that it delegates to.
    pub delegates: Delegates,
    /// The version of the specification that the configuration asks for.
    pub version: CniVersion,
    /// The network configuration, byte for byte as the runtime wrote it.
    pub stdin: Vec<u8>,
    /// `stdin`, parsed.
    pub document: Document,
}

impl ConfArgs {
    /// A copy with `key` of the configuration set to `value`.
    #[must_use]
    pub fn with(&self, key: &str, value: &Value) -> Self {
        let document = self.document.with(key, value);
        Self {
            network: self.network.clone(),
            delegates: self.delegates.clone(),
            version: self.version,
            stdin: document.to_bytes(),
            document,
        }
    }
}

/// Where a plugin finds the plugins that it delegates to.
#[derive(Clone, Debug, Default)]
pub struct Delegates {
    /// `CNI_PATH`: the directories of plugin executables, separated by `:`.
    pub path: String,
    /// The plugins inside this program. One is called instead of executed if the file that is
    /// found in `path` is this program.
    pub built_in: &'static [BuiltIn],
}

impl Delegates {
    /// The plugins in the directories of `path`; each one is executed.
    pub fn in_path(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            built_in: &[],
        }
    }

    /// The plugin inside this program that has this name, with or without the prefix `eni-`.
    pub(super) fn built_in(&self, name: &str) -> Option<BuiltIn> {
        let mut known = self.built_in.iter();
        known
            .find(|built_in| built_in.name == of_type(name))
            .copied()
    }
}

/// A plugin that is compiled into the program, besides the one that the program was executed
/// as.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    /// The name of the plugin, as [`of_type`] returns it.
    pub name: &'static str,
    /// Serves one command as the plugin's own program does. Only ADD returns a result.
    pub serve: fn(Environment, ConfArgs) -> Result<Option<AddResult>>,
}

/// The `CNI_*` environment of one call, validated. An empty variable is unset.
#[derive(Debug, Default)]
pub struct Environment {
    /// `CNI_COMMAND`; it may be an unknown command.
    pub command: String,
    /// `CNI_CONTAINERID`, when the command is about an attachment.
    pub container_id: Option<ContainerId>,
    /// `CNI_IFNAME`, when the command is about an attachment.
    pub ifname: Option<IfName>,
    /// `CNI_NETNS`, or empty.
    pub netns: String,
    /// `CNI_ARGS`, or empty.
    pub cni_args: String,
    /// `CNI_PATH`, or empty.
    pub path: String,
    /// Whether `CNI_NETNS_OVERRIDE` allows the plugin's own namespace.
    pub netns_override: bool,
}

impl Environment {
    /// Reads and validates the variables in the order of libcni's `skel`: an
    /// invalid one is reported at once, missing ones together. `CNI_PATH` is not
    /// required here, because only delegation needs it.
    ///
    /// # Errors
    /// Code 4 naming the variable.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| variable(name).unwrap_or_default();
        let command = get("CNI_COMMAND");
        let known = Command::from_text(&command);
        let needs_attachment = known.is_some_and(Command::has_attachment);
        let needs_netns = matches!(known, Some(Command::Add | Command::Check));
        let mut missing = Vec::new();
        if command.is_empty() {
            missing.push("CNI_COMMAND");
        }

        let mut environment = Self {
            netns: get("CNI_NETNS"),
            cni_args: get("CNI_ARGS"),
            path: get("CNI_PATH"),
            netns_override: is_true(&get("CNI_NETNS_OVERRIDE")),
            ..Self::default()
        };
        if needs_attachment {
            match get("CNI_CONTAINERID") {
                id if id.is_empty() => missing.push("CNI_CONTAINERID"),
                id => environment.container_id = Some(ContainerId::new(&id)?),
            }
        }
        if needs_netns && environment.netns.is_empty() {
            missing.push("CNI_NETNS");
        }
        if needs_attachment {
            match get("CNI_IFNAME") {
                name if name.is_empty() => missing.push("CNI_IFNAME"),
                name => environment.ifname = Some(IfName::new(&name)?),
            }
        }
        if missing.is_empty() {
            environment.command = command;
            return Ok(environment);
        }
        Err(missing_variables(&missing))
    }
}

/// The error of libcni for required variables that are unset or empty.
pub fn missing_variables(names: &[&str]) -> Error {
    environment(format!(
        "required env variables [{}] missing",
        names.join(",")
    ))
}

fn is_true(text: &str) -> bool {
    text == "1" || text.eq_ignore_ascii_case("true")
}

fn environment(msg: impl Into<String>) -> Error {
    Error::new(ErrorCode::ENVIRONMENT, msg)
}

/// The pairs of `CNI_ARGS`. Multus in thin mode sends every key twice, so
/// duplicates are normal and the last one wins.
///
/// # Errors
/// Code 4 when a pair does not have exactly one `=`, with the text of libcni.
pub fn parse_cni_args(text: &str) -> Result<Vec<(&str, &str)>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(';')
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !value.contains('=') => Ok((key, value)),
            _ => Err(environment(format!("ARGS: invalid pair {pair:?}"))),
        })
        .collect()
}

/// The last value of `key` in `CNI_ARGS`, if there is one. Parts that are not a pair are
/// ignored: the Go plugins parse these arguments only where they need them, so malformed ones
/// work with Go.
pub fn cni_arg<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = text.rsplit(';').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(found, _)| *found == key)
        .map(|(_, value)| value)
}

/// Namespace and name of the pod, as the kubelet's runtimes and Multus give them in
/// `CNI_ARGS`.
pub fn pod(text: &str) -> Option<String> {
    let namespace = cni_arg(text, "K8S_POD_NAMESPACE")?;
    let name = cni_arg(text, "K8S_POD_NAME")?;
    Some(format!("{namespace}/{name}"))
}

/// Whether the pairs of `CNI_ARGS` ask for unknown keys to be ignored.
pub fn ignores_unknown(pairs: &[(&str, &str)]) -> bool {
    pairs
        .iter()
        .any(|(key, value)| *key == "IgnoreUnknown" && is_true(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment> {
        Environment::read(|name| {
            let found = variables.iter().find(|(n, _)| *n == name)?;
            Some(found.1.to_owned())
        })
    }

    #[test]
    fn missing_variables_are_reported_together_and_in_order() {
        let error = read(&[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c")]).unwrap_err();
        assert_eq!(error.code, ErrorCode::ENVIRONMENT);
        assert_eq!(
            error.msg,
            "required env variables [CNI_NETNS,CNI_IFNAME] missing"
        );
    }

    #[test]
    fn an_empty_variable_is_unset_and_del_needs_no_netns() {
        let ok = [
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "c"),
            ("CNI_IFNAME", "net1"),
            ("CNI_NETNS", ""),
        ];
        assert_eq!(read(&ok).unwrap().netns, "");
        let error = read(&[("CNI_COMMAND", "")]).unwrap_err();
        assert_eq!(error.msg, "required env variables [CNI_COMMAND] missing");
    }

    #[test]
    fn commands_without_an_attachment_ignore_its_variables() {
        assert!(read(&[("CNI_COMMAND", "GC"), ("CNI_CONTAINERID", "../x")]).is_ok());
    }

    #[test]
    fn container_ids_and_interface_names_cannot_leave_their_directory() {
        for wrong in ["", "..", ".a", "a/b", "a b", "-a", "ä", "a:b"] {
            assert!(ContainerId::new(wrong).is_err(), "{wrong}");
        }
        for wrong in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "a\tb",
            "sixteen-bytes-xx",
            "a\u{85}",
        ] {
            assert!(IfName::new(wrong).is_err(), "{wrong}");
        }
        assert!(IfName::new("fifteen-bytes-x").is_ok());
    }

    #[test]
    fn ids_and_names_that_are_read_from_a_file_are_validated() {
        assert!(serde_json::from_str::<ContainerId>("\"../c\"").is_err());
        assert!(serde_json::from_str::<IfName>("\"a/b\"").is_err());
        let id = ContainerId::new("c1").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"c1\"");
    }

    #[test]
    fn cni_args_are_read_as_libcni_reads_them() {
        let pairs = parse_cni_args("IgnoreUnknown=1;K=a;K=b").unwrap();
        assert_eq!(pairs.last(), Some(&("K", "b")));
        assert!(ignores_unknown(&pairs));
        assert!(ignores_unknown(&[("IgnoreUnknown", "TRUE")]));
        for wrong in ["K=a;", "K", "K=a=b"] {
            assert!(
                parse_cni_args(wrong)
                    .unwrap_err()
                    .msg
                    .starts_with("ARGS: invalid pair"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn an_argument_is_found_among_parts_that_are_not_pairs() {
        for text in ["MAC=a;MAC=b;", ";MAC=b", "MAC;MAC=b;x", "K=1=2;MAC=b"] {
            assert_eq!(cni_arg(text, "MAC"), Some("b"), "{text}");
        }
        assert_eq!(cni_arg("K=MAC=b;mac=c;MAC", "MAC"), None);
        assert_eq!(cni_arg("MAC=a=b", "MAC"), Some("a=b"));
    }
}
