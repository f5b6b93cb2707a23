//! Whether this node can serve an ADD of a configuration, as far as the plugin itself tells:
//! STATUS, and `eni-sync doctor`.

use common::attach::Configuration;
use common::cni::args::ConfArgs;
use common::error::{ErrorCode, Result};
use common::kernel::netlink::{Link, Netlink};

use crate::config::NetConf;
use crate::master;

/// The configuration and its master on the node; no master where that is in the container.
///
/// # Errors
/// Code 6 or 7 for a configuration that is wrong, 50 where the node has not what it asks for.
pub fn examine(conf: &ConfArgs, node: &mut Netlink) -> Result<(NetConf, Option<Link>)> {
    Configuration::of(conf)?;
    let conf = NetConf::parse(conf)?;
    let master = match conf.link_in_container {
        true => Ok(None),
        false => master::find(&conf, node).map(Some),
    };
    let master = master.map_err(|error| error.with_code(ErrorCode::UNAVAILABLE))?;
    Ok((conf, master))
}
