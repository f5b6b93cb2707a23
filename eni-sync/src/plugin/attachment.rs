//! The attachment that a command is about, and how long the command may take.

use std::time::Duration;

use common::cni::args::{CmdArgs, pod};
use common::error::Result;
use common::records::{boot_id, netns_id};

use crate::deadline::Deadline;
use crate::ledger::{Life, Owner, Takeover};
use crate::vpc::environment;

/// How long an ADD or a CHECK may take with all its waits. Source: a kubelet gives its runtime
/// two minutes for a request.
pub(crate) const TIME: Duration = Duration::from_secs(100);

/// The deadline of an ADD or a CHECK.
pub(super) fn deadline() -> Deadline {
    Deadline::after(environment::left_of(TIME))
}

/// The attachment that a command is about.
///
/// # Errors
/// Code 8 when its namespace cannot be opened, 5 when the boot id cannot be read.
pub(crate) fn owner(args: &CmdArgs, cooldown: Duration, takeover: Takeover) -> Result<Owner> {
    let boot_id = boot_id()?;
    Ok(Owner {
        network: args.conf.network.clone(),
        container_id: args.container_id.to_string(),
        ifname: args.ifname.to_string(),
        pod: pod(&args.cni_args).unwrap_or_default(),
        life: Life::Namespace {
            netns_id: netns_id(args, &boot_id)?,
            netns: args.netns.clone(),
            boot_id,
        },
        cooldown_seconds: cooldown.as_secs(),
        takeover: Some(takeover),
    })
}
