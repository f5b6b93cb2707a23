//! The way to AWS as the agent has it: proxies, endpoints, region, authorities. A plugin has the
//! environment of the container runtime, which may have none of these, so the agent that serves
//! leaves them in a file that only root can read. Credentials are never among them.

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

/// What the agent leaves.
const FILE: &str = "/run/eni-cni/environment.json";
/// The authorities of the agent, whose own file only its container has.
const AUTHORITIES: &str = "/run/eni-cni/authorities.pem";
/// The file is far smaller.
const LIMIT: u64 = 1 << 16;
/// Says that this process has been given what the agent has left, and for how many milliseconds
/// more the command may take that it goes on with.
const ADOPTED: &str = "ENI_SYNC_ENVIRONMENT";

/// What may be in the file, in its usual case. Source: AWS SDKs and Tools Reference Guide.
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

/// Variables by which an agent has a role that the other programs of its node have not: those of
/// a service account (IRSA) and of EKS Pod Identity.
const ROLES: [&str; 3] = [
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

/// The file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Left {
    variables: BTreeMap<String, String>,
    /// Whether the agent has a role that its node may not have.
    has_own_role: bool,
}

impl Left {
    /// What is to be left of an environment, and the names of what may not be.
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

    /// Has the file say this.
    fn keep(&self) -> Result<()> {
        if *self == Self::default() {
            return remove(FILE);
        }
        let text = serde_json::to_vec(self)
            .map_err(|cause| Error::io(format!("failed to write {FILE:?}"), &cause.into()))?;
        keep(FILE, &text)
    }

    /// What an environment lacks. What it has in upper or lower case, it does not lack in the other.
    fn missing(self, variable: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
        let is_there =
            |name: &str| variable(&name.to_uppercase()) || variable(&name.to_lowercase());
        let is_ours = |name: &str| NAMES.contains(&name.to_uppercase().as_str());
        let mut missing = self.variables;
        missing.retain(|name, _| is_ours(name) && !is_there(name));
        missing
    }
}

/// Whether a URL names a user, and with that a password.
fn has_user(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split(['/', '?', '#']).next().unwrap_or_default();
    host.contains('@')
}

/// Leaves what this agent has for the plugins of its node, as far as the files say something
/// else. Only for the agent that serves: another one may have another way. Returns what is to be
/// said of it.
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
        // Where the file cannot be used, plugins trust the last one that could be, and without
        // one nobody: the authorities of the system are not those that the agent was told of.
        bundle.as_ref().map_or(Ok(()), |path| {
            let kept = kept(AUTHORITIES, http::LONGEST_BUNDLE);
            let authorities = http::authorities(Path::new(path), kept.as_deref())?;
            keep(AUTHORITIES, &authorities)
        }),
        left.keep(),
        match bundle {
            Some(_) => Ok(()),
            None => remove(AUTHORITIES),
        },
    ];
    let failed = outcomes.into_iter().filter_map(Result::err);
    findings
        .extend(failed.map(|error| format!("plugins do not get this agent's way to AWS: {error}")));
    findings
}

/// Writes a file, unless it says the same already and only root can have written it.
fn keep(path: &str, content: &[u8]) -> Result<()> {
    if kept(path, content.len() as u64).is_some_and(|kept| kept == content) {
        return Ok(());
    }
    let path = Path::new(path);
    file::replace(path, content)
        .map_err(|cause| Error::io(format!("failed to write {path:?}"), &cause))
}

/// What is in a file that only root can have written.
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

/// Whether plugins depend on the agent's role, as the last agent of this node has left word.
pub(crate) fn is_role_of_agent() -> bool {
    read().is_ok_and(|left| left.is_some_and(|left| left.has_own_role))
}

/// Executes a command of an operator anew with what its environment lacks and the agent has left.
/// Returns where nothing is lacking. The environment of a process that runs cannot be changed
/// safely.
pub(crate) fn adopt() {
    execute(lacking(), Stdio::inherit(), Deadline::default());
}

/// The same for a plugin, which reads its configuration a second time. It comes back here with
/// the time that it has left.
pub(crate) fn adopt_as_plugin(configuration: &[u8], deadline: Deadline) {
    let lacking = lacking();
    if lacking.is_empty() {
        return;
    }
    match again(configuration) {
        Ok(stdin) => execute(lacking, stdin, deadline),
        Err(cause) => say!("going on without {FILE:?}: {cause}"),
    }
}

/// What is read from the beginning once more.
fn again(content: &[u8]) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create("configuration", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

/// Whether this process has adopted what the agent has left, because no agent has answered.
pub(crate) fn is_adopted() -> bool {
    env::var_os(ADOPTED).is_some()
}

/// How much of its time a command has left that this process may go on with.
pub(crate) fn left_of(time: Duration) -> Duration {
    let left = env::var(ADOPTED).ok().and_then(|left| left.parse().ok());
    left.map_or(time, |left| time.min(Duration::from_millis(left)))
}

/// What this process lacks of what the agent has left.
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

/// What the file says; nothing where there is none, or for who may not read it.
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
            ("NO_PROXY", "10.0.0.0/8"),
        ]));
        let names: Vec<&String> = left.variables.keys().collect();
        assert_eq!(names, ["NO_PROXY"]);
        assert!(left.has_own_role);
        assert_eq!(secret, ["https_proxy", "HTTP_PROXY"]);
    }

    #[test]
    fn a_variable_without_a_value_is_no_role() {
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
