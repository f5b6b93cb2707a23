//! Attachments whose container has ended without a DEL. The plugin that made an attachment ends
//! it by its own record, as if the runtime had sent the DEL: addresses become free, and a
//! device that the kernel has returned to the node gets its name back. Nothing is done if the
//! container may still exist.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::cni::args::Delegates;
use common::cni::process;
use common::error::{Error, Errors, Result};
use common::kernel::netns::{Holders, Presence};
use common::program::own_name;
use common::records::{Attachment, ONLY, Records, boot_id};
use common::text::printable;
use serde_json::Value;
use tracing::info;

/// The plugins that keep records of their attachments.
const PLUGINS: [&str; 2] = ["host-device", "ipvlan"];
/// How long a DEL may take: as long as a runtime would wait at least.
const DEADLINE: Duration = Duration::from_secs(120);

/// The attachments without a container, and since when they have been seen.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    abandoned: HashMap<String, Instant>,
}

impl Orphans {
    /// Ends the attachments whose container ended at least `grace` ago, by the plugins in the
    /// directories of `cni_path`. Adds to `kept` the attachments that stay because it is
    /// unknown whether their container exists.
    ///
    /// # Errors
    /// The failures for any of them; the others are done, and the failed ones are tried again.
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
    // The plugin's own name comes first: the other name may be that of another program.
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
        .env("CNI_PATH", cni_path)
        // The container may have been started again meanwhile.
        .env(ONLY, record.identity());
    let output = process::run(command, &args.conf.stdin, DEADLINE);
    let output = output.map_err(|cause| failed(cause.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stdout).into_owned())),
    }
}
