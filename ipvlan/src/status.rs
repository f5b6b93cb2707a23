//! Whether this node can serve an ADD of a configuration, without its delegate: for STATUS
//! and `eni-sync doctor`.

use common::attach::Configuration;
use common::cni::args::ConfArgs;
use common::error::{ErrorCode, Result};
use common::kernel::netlink::{Link, Netlink};

use crate::config::NetConf;
use crate::master;

/// The configuration, and its master on the node; no master when that is inside the
/// container.
///
/// # Errors
/// Code 6 or 7 for an invalid configuration, 50 when the node does not have a suitable
/// master.
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
