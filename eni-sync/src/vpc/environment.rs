//! How the agent reaches AWS: proxies, endpoints, region, certificate authorities. A plugin has
//! the environment of the container runtime, which may have none of these settings, so the
//! agent that serves writes them into files that only root can read. Credentials are never
//! among them.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::attach::inventory::DIRECTORY;
use common::error::{Error, Result};
use common::files::{file, format};
use common::say;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::deadline::Deadline;
use crate::vpc::http;

/// The file with the agent's variables.
const FILE: &str = "/run/eni-cni/environment.json";
/// A copy of the agent's certificate authorities, whose own file may exist only in its
/// container.
const AUTHORITIES: &str = "/run/eni-cni/authorities.pem";
/// The size limit of the file in bytes: more than the variables of a process can have. Source:
/// execve(2), "Limits on size of arguments and environment".
const LIMIT: u64 = 1 << 24;
/// The variable that says that this process has been given the agent's variables. Its value is
/// the time that the command has left, in milliseconds.
const ADOPTED: &str = "ENI_SYNC_ENVIRONMENT";

/// The variables that may be in the file, here in upper case. Source: AWS SDKs and Tools
/// Reference Guide.
const NAMES: [&str; 12] = [
    "ALL_PROXY",
    http::BUNDLE,
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_EC2",
    "AWS_REGION",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
];

/// Variables that give an agent a role which the other programs of its node do not have: those
/// of a service account (IRSA) and of EKS Pod Identity.
const ROLES: [&str; 3] = [
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

/// The content of the file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Left {
    variables: BTreeMap<String, String>,
    /// Whether the agent has a role that its node may not have.
    has_own_role: bool,
}

impl Left {
    /// Takes the settings from an environment. Also returns the names of the variables that are
    /// left out because they have a password.
    fn of(variable: impl Fn(&str) -> Option<String>) -> (Self, Vec<String>) {
        let (mut left, mut secret) = (Self::default(), Vec::new());
        for name in NAMES {
            for name in [name.to_owned(), name.to_lowercase()] {
                match variable(&name).filter(|value| !value.is_empty()) {
                    Some(value) if has_user(&value) => secret.push(name),
                    Some(value) => {
                        left.variables.insert(name, value);
                    }
                    None => {}
                }
            }
        }
        let has_value = |name: &&str| variable(name).is_some_and(|value| !value.is_empty());
        left.has_own_role = ROLES.iter().any(has_value);
        (left, secret)
    }

    /// Writes the file; removes it when there is nothing to write.
    fn keep(&self) -> Result<()> {
        if *self == Self::default() {
            return remove(FILE);
        }
        let text = serde_json::to_vec(self)
            .map_err(|cause| Error::io(format!("failed to write {FILE:?}"), &cause.into()))?;
        keep(FILE, (&text, LIMIT))
    }

    /// The variables that an environment lacks. A variable that is set in upper or lower case
    /// is not missing in the other.
    fn missing(self, variable: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
        let is_there =
            |name: &str| variable(&name.to_uppercase()) || variable(&name.to_lowercase());
        let is_ours = |name: &str| NAMES.contains(&name.to_uppercase().as_str());
        let mut missing = self.variables;
        missing.retain(|name, _| is_ours(name) && !is_there(name));
        missing
    }
}

/// Whether a value names a user, and with that a password, which can have any character. The path
/// of a file is no such value.
fn has_user(value: &str) -> bool {
    !value.starts_with('/') && value.contains('@')
}

/// Writes the settings of this agent for the plugins of its node, where the files differ. Only
/// for the agent that serves: another agent may have other settings. Returns messages for the
/// log.
pub(crate) fn leave() -> Vec<String> {
    let (mut left, secret) = Left::of(|name| env::var(name).ok());
    let of_secret = |name| {
        format!(
            "plugins do not get {name}, which has a password: without an agent, they do not use \
             this proxy"
        )
    };
    let mut findings: Vec<String> = secret.into_iter().map(of_secret).collect();
    let bundle = left.variables.get_mut(http::BUNDLE);
    let bundle = bundle.map(|path| std::mem::replace(path, AUTHORITIES.to_owned()));
    let outcomes = [
        file::create_private_directory(Path::new(DIRECTORY))
            .map_err(|cause| Error::io(format!("failed to create {DIRECTORY:?}"), &cause)),
        // If the file cannot be used, plugins trust the last copy that could be, and without a
        // copy no authority at all: the system's authorities are not those that the agent is
        // configured with.
        bundle.as_ref().map_or(Ok(()), |path| {
            let kept = kept(AUTHORITIES, http::LONGEST_BUNDLE);
            let authorities = http::authorities(Path::new(path), kept.as_deref())?;
            keep(AUTHORITIES, (&authorities, http::LONGEST_BUNDLE))
        }),
        left.keep(),
        match bundle {
            Some(_) => Ok(()),
            None => remove(AUTHORITIES),
        },
    ];
    let failed = outcomes.into_iter().filter_map(Result::err);
    findings.extend(
        failed.map(|error| format!("plugins do not get this agent's settings for AWS: {error}")),
    );
    findings
}

/// Writes a file whose readers take `limit` bytes, unless it has this content already and only root
/// can have written it.
fn keep(path: &str, (content, limit): (&[u8], u64)) -> Result<()> {
    if kept(path, content.len() as u64).is_some_and(|kept| kept == content) {
        return Ok(());
    }
    let path = Path::new(path);
    file::require_readable(content, limit)
        .and_then(|()| file::replace(path, content))
        .map_err(|cause| Error::io(format!("failed to write {path:?}"), &cause))
}

/// The content of a file that only root can have written.
fn kept(path: &str, limit: u64) -> Option<Vec<u8>> {
    let path = Path::new(path);
    let found = fs::symlink_metadata(path).ok()?;
    let content = file::read_regular(path, limit).ok();
    content.filter(|_| is_of_root(&found))
}

fn remove(path: &str) -> Result<()> {
    file::remove(Path::new(path))
        .map_err(|cause| Error::io(format!("failed to remove {path:?}"), &cause))
}

fn is_of_root(found: &fs::Metadata) -> bool {
    found.uid() == 0 && found.mode() & 0o022 == 0
}

/// The region that this process' environment names, if it names one.
pub(crate) fn region() -> Option<String> {
    let region = env::var("AWS_REGION").ok();
    region.filter(|region| !region.is_empty())
}

/// Whether plugins depend on the agent's role, according to the file of the last agent.
pub(crate) fn is_role_of_agent() -> bool {
    read().is_ok_and(|left| left.is_some_and(|left| left.has_own_role))
}

/// Executes this program again with the agent's variables that its environment lacks, for a
/// command of an operator. Returns if none is missing. A running process cannot change its
/// environment safely.
pub(crate) fn adopt() {
    execute(lacking(), Stdio::inherit(), Deadline::default());
}

/// The same for a plugin, which then reads its configuration again. The new process gets the
/// time that the command has left.
pub(crate) fn adopt_as_plugin(configuration: &[u8], deadline: Deadline) {
    let lacking = lacking();
    if lacking.is_empty() {
        return;
    }
    match stdin_with(configuration) {
        Ok(stdin) => execute(lacking, stdin, deadline),
        Err(cause) => say!("going on without {FILE:?}: {cause}"),
    }
}

/// Standard input with this content, in a file in memory.
fn stdin_with(content: &[u8]) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create("configuration", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

/// Whether this process has the agent's variables because it was executed again: no agent has
/// answered.
pub(crate) fn is_adopted() -> bool {
    env::var_os(ADOPTED).is_some()
}

/// How much of `time` the command has left. A process that was executed again continues with
/// what the first one had left.
pub(crate) fn left_of(time: Duration) -> Duration {
    let left = env::var(ADOPTED).ok().and_then(|left| left.parse().ok());
    left.map_or(time, |left| time.min(Duration::from_millis(left)))
}

/// The agent's variables that this process lacks.
fn lacking() -> BTreeMap<String, String> {
    if is_adopted() {
        return BTreeMap::new();
    }
    let left = read().unwrap_or_else(|cause| {
        say!("going on without {FILE:?}: {cause}");
        None
    });
    let left = left.unwrap_or_default();
    left.missing(|name| env::var_os(name).is_some())
}

fn execute(lacking: BTreeMap<String, String>, stdin: Stdio, deadline: Deadline) {
    if lacking.is_empty() {
        return;
    }
    let mut arguments = env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let cause = command
        .args(arguments)
        .envs(lacking)
        .env(ADOPTED, deadline.left().as_millis().to_string())
        .stdin(stdin)
        .exec();
    say!("going on without {FILE:?}: {cause}");
}

/// Reads the file. `None` if it does not exist or this user may not read it.
fn read() -> io::Result<Option<Left>> {
    let path = Path::new(FILE);
    let content = match file::read_regular(path, LIMIT) {
        Ok(content) => content,
        Err(cause)
            if matches!(
                cause.kind(),
                ErrorKind::NotFound | ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(None);
        }
        Err(cause) => return Err(cause),
    };
    if !is_of_root(&fs::symlink_metadata(path)?) {
        return Err(io::Error::other("it can be written by others than root"));
    }
    if let Some(why) = format::newer(&content) {
        return Err(io::Error::other(why));
    }
    Ok(Some(serde_json::from_slice(&content)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        let pairs: BTreeMap<String, String> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        move |name| pairs.get(name).cloned()
    }

    #[test]
    fn no_credential_is_left() {
        let (left, secret) = Left::of(environment(&[
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("AWS_SESSION_TOKEN", "x"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token"),
            ("https_proxy", "http://user:secret@proxy:3128"),
            ("HTTP_PROXY", "user:secret@proxy"),
            ("all_proxy", "http://user:sec/r#e?t@proxy:3128"),
            ("AWS_CA_BUNDLE", "/etc/ssl/ca@1.pem"),
            ("NO_PROXY", "10.0.0.0/8"),
        ]));
        let names: Vec<&String> = left.variables.keys().collect();
        assert_eq!(names, ["AWS_CA_BUNDLE", "NO_PROXY"]);
        assert!(left.has_own_role);
        assert_eq!(secret, ["all_proxy", "https_proxy", "HTTP_PROXY"]);
    }

    #[test]
    fn an_empty_variable_is_not_a_role() {
        for name in ROLES {
            let has_role = |value| Left::of(environment(&[(name, value)])).0.has_own_role;
            assert!(has_role("x") && !has_role(""), "{name}");
        }
    }

    #[test]
    fn what_a_process_has_itself_counts_in_either_case() {
        let (left, _) = Left::of(environment(&[
            ("HTTPS_PROXY", "http://proxy:1"),
            ("AWS_USE_FIPS_ENDPOINT", "true"),
        ]));
        let missing = left.missing(|name| name == "https_proxy");
        let names: Vec<&String> = missing.keys().collect();
        assert_eq!(names, ["AWS_USE_FIPS_ENDPOINT"]);
    }

    #[test]
    fn a_file_gives_a_process_nothing_but_what_is_on_the_list() {
        let text = r#"{"variables":{"LD_PRELOAD":"/x.so","AWS_REGION":"us-gov-west-1"}}"#;
        let left: Left = serde_json::from_str(text).unwrap();
        let missing = left.missing(|_| false);
        assert_eq!(
            missing,
            BTreeMap::from([("AWS_REGION".into(), "us-gov-west-1".into())])
        );
    }
}
