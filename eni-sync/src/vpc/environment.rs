//! The way to AWS as the agent has it: proxy, endpoints, region, authorities. A plugin has the
//! environment of the container runtime, which knows nothing of these, so the agent leaves them
//! in a file that only root can read. Credentials are never among them.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use common::attach::inventory::DIRECTORY;
use common::error::{Error, Result};
use common::files::file;
use common::say;
use serde::{Deserialize, Serialize};

use crate::vpc::http;

/// What the agent leaves.
const FILE: &str = "/run/eni-cni/environment.json";
/// The authorities of the agent, whose own file only its container has.
const AUTHORITIES: &str = "/run/eni-cni/authorities.pem";
/// The file is far smaller.
const LIMIT: u64 = 1 << 16;
/// Says that this process has been given what the agent has left.
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
        left.has_own_role = ROLES.iter().any(|name| variable(name).is_some());
        (left, secret)
    }

    /// What an environment lacks. Who names a proxy has said all about proxies in one case.
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

/// Leaves what this agent has for the plugins of its node.
///
/// # Errors
/// Code 5 naming the file that cannot be written, and those of [`http::authorities`].
pub(crate) fn leave() -> Result<()> {
    file::create_private_directory(Path::new(DIRECTORY))
        .map_err(|cause| Error::io(format!("failed to create {DIRECTORY:?}"), &cause))?;
    let (mut left, secret) = Left::of(|name| env::var(name).ok());
    for name in secret {
        say!(
            "plugins do not get {name}, which has a password: without an agent, they do not use this proxy"
        );
    }
    match left.variables.get_mut(http::BUNDLE) {
        Some(path) => {
            let authorities = http::authorities(Path::new(path))?;
            write(AUTHORITIES, &authorities)?;
            AUTHORITIES.clone_into(path);
        }
        None => remove(AUTHORITIES)?,
    }
    if left == Left::default() {
        return remove(FILE);
    }
    let text = serde_json::to_vec(&left)
        .map_err(|cause| Error::io(format!("failed to write {FILE:?}"), &cause.into()))?;
    write(FILE, &text)
}

fn write(path: &str, content: &[u8]) -> Result<()> {
    file::replace(Path::new(path), content)
        .map_err(|cause| Error::io(format!("failed to write {path:?}"), &cause))
}

fn remove(path: &str) -> Result<()> {
    file::remove(Path::new(path))
        .map_err(|cause| Error::io(format!("failed to remove {path:?}"), &cause))
}

/// Whether plugins depend on the agent's role, as the last agent of this node has left word.
pub(crate) fn is_role_of_agent() -> bool {
    read().is_ok_and(|left| left.is_some_and(|left| left.has_own_role))
}

/// Executes this program anew with what its environment lacks and the agent has left. Returns
/// where nothing is lacking. The environment of a process that runs cannot be changed safely.
pub(crate) fn adopt() {
    if env::var_os(ADOPTED).is_some() {
        return;
    }
    let left = read().unwrap_or_else(|cause| {
        say!("going on without {FILE:?}: {cause}");
        None
    });
    let missing = left
        .unwrap_or_default()
        .missing(|name| env::var_os(name).is_some());
    if missing.is_empty() {
        return;
    }
    let mut arguments = env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let cause = command
        .args(arguments)
        .envs(missing)
        .env(ADOPTED, "1")
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
    let found = fs::symlink_metadata(path)?;
    if found.uid() != 0 || found.mode() & 0o022 != 0 {
        return Err(io::Error::other("it can be written by others than root"));
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
