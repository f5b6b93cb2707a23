//! The MAC that a pod asks for. Multus passes an annotation on in three ways; not every
//! plugin can give a pod what it asks for, and none may ignore it.

use serde::Deserialize;

use crate::cni::args::{CmdArgs, cni_arg};
use crate::error::Result;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Requests {
    runtime_config: Mac,
    args: Args,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Args {
    cni: Mac,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Mac {
    mac: String,
}

/// The MAC that is asked for: by `runtimeConfig.mac`, else by `args.cni.mac`, else by `MAC`
/// in `CNI_ARGS`; nothing when none is.
///
/// # Errors
/// Code 6 when a key is not a text.
pub fn requested_mac(args: &CmdArgs) -> Result<Option<String>> {
    let requests: Requests = args.conf.document.read("failed to load netconf")?;
    let from_args = cni_arg(&args.cni_args, "MAC")
        .unwrap_or_default()
        .to_owned();
    let sources = [
        requests.runtime_config.mac,
        requests.args.cni.mac,
        from_args,
    ];
    Ok(sources.into_iter().find(|mac| !mac.is_empty()))
}
