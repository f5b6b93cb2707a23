//! The MAC address that a pod requests. Multus passes the annotation on in three ways. A
//! plugin that cannot set it must refuse the request and not ignore it.

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

/// The requested MAC address: `runtimeConfig.mac`, otherwise `args.cni.mac`, otherwise
/// `MAC` in `CNI_ARGS`; `None` without a request. Its format is not checked.
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
