//! A third plugin: gives a pod a macvlan interface on a master of the node. It shows that a
//! plugin consists only of the code for its interfaces, and that `common::attach` has the
//! rest. The tests use it to test that on a kernel without ipvlan.

use std::process::ExitCode;

use common::attach::{self, Interface, Placed, Release, Sandbox, Sides, sandbox_for_del};
use common::cni::args::{CmdArgs, ConfArgs};
use common::cni::result::AddResult;
use common::error::{Error, ErrorCode, Result};
use common::kernel::netlink::{Kind, Link, Made, Netlink, NewLink};
use common::plugin;
use common::records::Attachment;
use serde::{Deserialize, Serialize};

/// The mode in which the interfaces of a master reach each other. Source: `linux/if_link.h`.
const BRIDGE: u32 = 4;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Macvlan {
    master: String,
}

/// The plugin's part of the record.
#[derive(Serialize, Deserialize)]
struct Device {
    master_index: u32,
}

type Record = Attachment<Device>;

fn main() -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    plugin::run(
        &attach::commands::<Macvlan>(version, common::marker!("macvlan")),
        &[],
    )
}

impl Interface for Macvlan {
    const NAME: &'static str = "macvlan";
    type Device = Device;
    type Plan = ();

    fn configure(args: &CmdArgs, _prev_result: Option<&AddResult>) -> Result<Self> {
        args.conf.document.read("failed to load netconf")
    }

    fn plan(&self, args: &CmdArgs, sides: &mut Sides) -> Result<(Device, ())> {
        let master_index = self.master(&mut sides.node)?.index;
        sides.sandbox.require_absent(&args.ifname)?;
        Ok((Device { master_index }, ()))
    }

    fn make(&self, (): (), record: &mut Record, sides: &mut Sides) -> Made<Placed> {
        let new = NewLink {
            name: record.ifname.as_str(),
            lower: record.device.master_index,
            netns: Some(&sides.sandbox.netns),
            kind: Kind::Macvlan { mode: BRIDGE },
            mtu: None,
        };
        let made = sides.node.create_link(new);
        made.and_then(|()| Ok(sides.sandbox.require(&record.ifname)?.into()))
    }

    fn is_attached(args: &CmdArgs, record: &Record) -> Result<bool> {
        find(args, record).map(|found| found.is_some())
    }

    fn remove(args: &CmdArgs, record: &Record, release: &mut Release<'_>) -> Result<()> {
        let Some((mut sandbox, link)) = find(args, record)? else {
            return Ok(());
        };
        release.before_removal(&mut sandbox.netlink, &link);
        sandbox.netlink.delete_link(&link)
    }

    fn verify(_: &CmdArgs, record: Option<&Record>, link: &Link, _: Sandbox) -> Result<()> {
        match record.is_none_or(|record| record.device.is_master_of(link)) {
            true => Ok(()),
            false => Err(Error::internal(format!(
                "{:?} is not on its master",
                link.name
            ))),
        }
    }

    fn status(conf: &ConfArgs) -> Result<()> {
        let own: Self = conf.document.read("failed to load netconf")?;
        let found = own.master(&mut Netlink::open()?);
        found
            .map(drop)
            .map_err(|error| error.with_code(ErrorCode::UNAVAILABLE))
    }
}

impl Macvlan {
    fn master(&self, node: &mut Netlink) -> Result<Link> {
        let found = node.link_by_name(&self.master)?;
        found.ok_or_else(|| Error::config(format!("there is no master {:?}", self.master)))
    }
}

impl Device {
    fn is_master_of(&self, link: &Link) -> bool {
        let is_on_node = link.parent_netns_id.is_some();
        link.kind == "macvlan" && link.parent == Some(self.master_index) && is_on_node
    }
}

fn find(args: &CmdArgs, record: &Record) -> Result<Option<(Sandbox, Link)>> {
    let Some(mut sandbox) = sandbox_for_del(args, Some(record))? else {
        return Ok(None);
    };
    let link = sandbox.netlink.link_by_name(record.ifname.as_str())?;
    let own = link.filter(|link| record.device.is_master_of(link));
    Ok(own.map(|link| (sandbox, link)))
}
