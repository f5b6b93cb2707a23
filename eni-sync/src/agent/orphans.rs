//! Attachments whose container has gone without a DEL: the plugin that made one ends
//! it, by its own record, as if the runtime had asked. Addresses come back, and a
//! device that the kernel has dropped on the node gets its name back. Nothing is done
//! about a container that may live.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::cni::args::Delegates;
use common::cni::process;
use common::error::{Error, Errors, Result};
use common::kernel::netns::{Holders, Presence};
use common::program::own_name;
use common::records::{Attachment, Records, boot_id};
use common::text::printable;
use serde_json::Value;
use tracing::info;

/// The plugins that keep records of their attachments.
const PLUGINS: [&str; 2] = ["host-device", "ipvlan"];
/// As long as a runtime would wait at least.
const DEADLINE: Duration = Duration::from_secs(120);

/// Since when attachments have been seen without their container.
#[derive(Debug, Default)]
pub(crate) struct Hygiene {
    abandoned: HashMap<String, Instant>,
}

impl Hygiene {
    /// Ends the attachments whose container has been gone for `grace`, with the plugins
    /// in the directories of `cni_path`. Adds to `kept` which ones stay because nobody can
    /// tell whether their container lives.
    ///
    /// # Errors
    /// What went wrong with any of them; the others are done, and all are tried again.
    pub(crate) fn run(
        &mut self,
        cni_path: &str,
        grace: Duration,
        kept: &mut Vec<String>,
    ) -> Result<()> {
        let mut errors = Errors::default();
        let mut abandoned = HashMap::new();
        let (boot, holders) = (boot_id()?, Holders::default());
        for plugin in PLUGINS {
            let records = errors.keep(Records::of(plugin).all::<Value>());
            for record in records.into_iter().flatten() {
                let name = name(plugin, &record);
                match record.presence(&boot, &holders) {
                    Presence::Ended => {}
                    Presence::Living => continue,
                    Presence::Unknown(why) => {
                        kept.push(format!("{name} is kept: {why}"));
                        continue;
                    }
                }
                let since = self
                    .abandoned
                    .get(&name)
                    .copied()
                    .unwrap_or_else(Instant::now);
                if since.elapsed() < grace {
                    abandoned.insert(name, since);
                } else if errors.keep(end(plugin, &record, cni_path)).is_some() {
                    let reason = "its container has gone without a DEL";
                    info!(
                        plugin,
                        network = record.network,
                        container = record.container_id.as_str(),
                        interface = record.ifname.as_str(),
                        reason,
                        "ended {name}, whose container has gone"
                    );
                }
            }
        }
        self.abandoned = abandoned;
        errors.into_result()
    }
}

fn name(plugin: &str, record: &Attachment<Value>) -> String {
    let name = format!(
        "{plugin} attachment of container {}, interface {}, network {}",
        record.container_id, record.ifname, record.network
    );
    printable(&name).into_owned()
}

/// Executes the DEL that the runtime has not sent.
fn end(plugin: &str, record: &Attachment<Value>, cni_path: &str) -> Result<()> {
    let failed = |why: String| {
        let msg = format!("failed to end the {}", name(plugin, record));
        Error::internal(msg).with_details(why)
    };
    // Another's program may have the other name.
    let names = [own_name(plugin), plugin.to_owned()];
    let mut candidates = names.iter().flat_map(|name| {
        let directories = cni_path.split(':');
        directories.map(move |directory| Path::new(directory).join(name))
    });
    let program = candidates
        .find(|path| path.is_file())
        .ok_or_else(|| failed(format!("there is no {plugin} in {cni_path}")))?;
    let args = record.del_args(&Delegates::in_path(cni_path))?;
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("CNI_COMMAND", "DEL")
        .env("CNI_CONTAINERID", args.container_id.as_str())
        .env("CNI_IFNAME", args.ifname.as_str())
        .env("CNI_NETNS", &args.netns)
        .env("CNI_PATH", cni_path);
    let output = process::run(command, &args.conf.stdin, DEADLINE);
    let output = output.map_err(|cause| failed(cause.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stdout).into_owned())),
    }
}
