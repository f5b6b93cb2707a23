//! The commands of the CNI plugin `ipvlan`: gives a pod an ipvlan interface on a master of the
//! node, typically a secondary ENI. Addresses come from an IPAM plugin or from the plugin before
//! it in the chain. This file has the plugin's part of an attachment; `common::attach` has the
//! rest.

use common::address::Cidr;
use common::attach::turn::Turn;
use common::attach::{self, Interface, Placed, Release, Sandbox, Sides, awaited, inventory};
use common::cni::args::{CmdArgs, ConfArgs};
use common::cni::result::AddResult;
use common::error::{Error, ErrorCode, Result};
use common::kernel::netlink::{Link, Made, Netlink};
use common::plugin::Commands;
use common::records::Attachment;

use crate::config::NetConf;
use crate::device::Device;
use crate::{NAME, chain, link, master, neighbours, records, status, unrecorded};

/// The commands of the plugin.
pub const COMMANDS: Commands =
    attach::commands::<Ipvlan>(env!("CARGO_PKG_VERSION"), common::marker!("ipvlan"));

type Record = Attachment<Device>;

/// The interface that a configuration describes.
struct Ipvlan {
    conf: NetConf,
}

impl Interface for Ipvlan {
    const NAME: &'static str = NAME;
    type Device = Device;
    /// The master, and the turn that keeps its ENI from being detached.
    type Plan = (Link, Option<Turn>);

    fn configure(args: &CmdArgs, prev_result: Option<&AddResult>) -> Result<Self> {
        let conf = NetConf::for_add(args, prev_result)?;
        Ok(Self { conf })
    }

    fn plan(&self, args: &CmdArgs, sides: &mut Sides) -> Result<(Device, Self::Plan)> {
        let in_container = self.conf.link_in_container;
        let netlink = sides.socket(in_container);
        // eni-sync does not attach ENIs to a container, so a master there is not waited for.
        let (master, turn) = match in_container {
            true => (master::find(&self.conf, netlink)?, None),
            false => awaited::find(|| {
                let turn = Turn::to_choose_master()?;
                let master = master::find(&self.conf, netlink)?;
                inventory::require_staying(&master.name, master.hardware_mac())?;
                Ok((master, turn))
            })?,
        };
        sides.sandbox.require_absent(&args.ifname)?;
        let device = Device::of(&self.conf, &master, args, sides)?;
        Ok((device, (master, turn)))
    }

    fn make(&self, plan: Self::Plan, record: &mut Record, sides: &mut Sides) -> Made<Placed> {
        // From now on the record keeps the ENI from being detached.
        let (master, turn) = plan;
        drop(turn);
        let place = (&master, self.conf.link_in_container);
        let unused = neighbours::refuse_other_use(record, place, &records(), sides);
        if let Err(error) = unused {
            return Made::Nothing(error);
        }
        link::create(&self.conf, &master, record, sides).and_then(|()| {
            master::set_up(&master, sides.socket(self.conf.link_in_container))?;
            let link = sides.sandbox.require(&record.ifname)?;
            link::read_back(&link, record, sides)?;
            let pci_id = record.device.pci_id.clone();
            Ok(Placed {
                pci_id,
                ..link.into()
            })
        })
    }

    fn addresses(&self, _: &Device, own: Option<AddResult>, earlier: &mut AddResult) -> AddResult {
        own.unwrap_or_else(|| chain::take_addresses(earlier))
    }

    fn name_holder(&self, error: Error, record: &Record, ips: &[Cidr], sides: &mut Sides) -> Error {
        neighbours::name_holder(error, record, ips, &records(), sides)
    }

    fn is_attached(args: &CmdArgs, record: &Record) -> Result<bool> {
        link::is_attached(args, record)
    }

    fn remove(args: &CmdArgs, record: &Record, release: &mut Release<'_>) -> Result<()> {
        link::remove(args, record, release)
    }

    fn is_renamed(args: &CmdArgs, record: &Record) -> bool {
        unrecorded::is_renamed(args, record)
    }

    fn remove_unrecorded(args: &CmdArgs, damaged: bool, release: &mut Release<'_>) -> Result<bool> {
        unrecorded::remove(args, damaged, release)
    }

    fn verify(
        args: &CmdArgs,
        record: Option<&Record>,
        link: &Link,
        sandbox: Sandbox,
    ) -> Result<()> {
        let (conf, device) = (NetConf::parse(&args.conf)?, record.map(|r| &r.device));
        link::verify(link, &conf, device, &mut Sides::of(sandbox)?)
    }

    fn status(conf: &ConfArgs) -> Result<()> {
        let mut node = Netlink::open()?;
        status::examine(conf, &mut node)?;
        let found = master::require_ipvlan(&mut node);
        found.map_err(|error| error.with_code(ErrorCode::UNAVAILABLE))
    }
}
