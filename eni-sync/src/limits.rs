//! The limits on what the agent's clients may use at a time, all in one file: no process of the
//! node can take the descriptors, the memory or the time that plugins need. SECURITY.md lists
//! these limits.

use std::time::Duration;

use common::say;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How many files the agent may open. All connections, with the files and the AWS connections
/// of those that are served, need half of them.
pub(crate) const FILES: u64 = 4096;
/// How many plugins may be connected. The connection of the next one is closed, and its
/// plugin does the work itself.
pub(crate) const PLUGINS: usize = 512;
/// How many of them are served at a time, each by a thread that has clients of AWS. The
/// others wait.
pub(crate) const SERVED: usize = 64;
/// How long a plugin may take to send its request, or to read its answer.
pub(crate) const PLUGIN_DEADLINE: Duration = Duration::from_secs(5);

/// How many clients may be connected to the port of the metrics. When one more connects, the
/// connection that has waited longest for its request is closed.
pub(crate) const CLIENTS: usize = 32;
/// How long the head of a request for metrics may be, in bytes.
pub(crate) const HEAD: usize = 8192;
/// How long a client may take to send the head of its request.
pub(crate) const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// How long an answer with metrics may take, including the scrapes that are answered before it.
pub(crate) const SCRAPE_DEADLINE: Duration = Duration::from_secs(10);
/// How long an answer about readiness may take to find out what is not necessary for it.
pub(crate) const PROBE_DEADLINE: Duration = Duration::from_secs(1);
/// How long a client may be connected. A connection is for one request.
pub(crate) const CLIENT_DEADLINE: Duration = Duration::from_secs(30);

/// How many addresses of a network namespace the agent and the commands read. No pod needs as
/// many. If a pod has more, only those of its addresses are kept that are in the ledger.
pub(crate) const ADDRESSES: usize = 4096;

/// Lets this process open as many files as it may need, where the service manager or the
/// runtime has set a lower limit that can be raised.
pub(crate) fn raise_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = FILES.min(hard).max(soft);
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).map(|()| wanted)
    });
    match raised {
        Ok(limit) if limit < FILES => {
            say!("the agent can open {limit} files only; LimitNOFILE={FILES} is enough");
        }
        Ok(_) => {}
        Err(errno) => say!("the limit of open files is unknown: {errno}"),
    }
}
