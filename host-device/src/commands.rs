//! The commands of the CNI plugin `host-device`: moves a whole device of the host into the
//! container and gives it back, under its name and with its properties. A device that is bound
//! to a driver for user space (DPDK) stays where it is. This file says what is moved and when;
//! `common::attach` leads an attachment through its life.

use common::attach::turn::Turn;
use common::attach::{self, Interface, Placed, Release, Sandbox, Sides, awaited, inventory};
use common::cni::args::{CmdArgs, ConfArgs};
use common::cni::result::AddResult;
use common::error::Result;
use common::kernel::netlink::{Link, Made, NetworkState};
use common::plugin::Commands;
use common::records::Attachment;

use crate::config::{Config, DeviceSelector};
use crate::device::Device;
use crate::restore::Host;
use crate::{
    NAME, device_info, find, give_back, identity, keep, plan, records, recover, transfer,
    unrecorded, userspace,
};

/// The plugin.
pub const COMMANDS: Commands =
    attach::commands::<HostDevice>(env!("CARGO_PKG_VERSION"), common::marker!("host-device"));

type Record = Attachment<Device>;

/// The device that a configuration asks for.
struct HostDevice {
    config: Config,
}

impl Interface for HostDevice {
    const NAME: &'static str = NAME;
    type Device = Device;
    /// The turn of the node's devices, in which nobody else looks for the device.
    type Plan = Option<Turn>;

    fn configure(args: &CmdArgs, _prev_result: Option<&AddResult>) -> Result<Self> {
        let config = Config::parse(&args.conf)?;
        Ok(Self { config })
    }

    fn brings_addresses(&self) -> bool {
        self.config.options.keep_addresses
    }

    fn plan(&self, args: &CmdArgs, sides: &mut Sides) -> Result<(Device, Option<Turn>)> {
        // Who waits for a device that is still being attached has no turn meanwhile.
        awaited::find(|| {
            let devices = Turn::of_devices()?;
            let device = plan::plan(args, &self.config, sides)?;
            inventory::require_staying(&device.name, &device.mac)?;
            Ok((device, devices))
        })
    }

    /// The device comes back at once when something else still uses it in the container.
    fn make(&self, devices: Option<Turn>, record: &mut Record, sides: &mut Sides) -> Made<Placed> {
        let moved = transfer::move_in(&mut sides.node, &mut sides.sandbox, record);
        // What moves a device back takes the turn itself.
        drop(devices);
        let made = match moved {
            Ok(link) => Made::Done(link),
            Err(error) => transfer::take_back(&mut sides.node, record, error),
        };
        made.and_then(|link| {
            device_info::write(&record.device)?;
            let carried = match self.config.options.keep_addresses {
                true => record.device.network.clone(),
                false => NetworkState::default(),
            };
            Ok(Placed {
                link,
                pci_id: record.device.pci_id.clone(),
                carried,
            })
        })
    }

    fn addresses(
        &self,
        device: &Device,
        reserved: Option<AddResult>,
        _earlier: &mut AddResult,
    ) -> AddResult {
        let mut own = reserved.unwrap_or_default();
        if self.config.options.keep_addresses {
            keep::add_to(&device.network, &mut own);
        }
        own
    }

    /// What the device had on the node is given back to it by an ADD that fails, and else only
    /// where the configuration says so.
    fn settle(&self, record: &mut Record) -> Result<()> {
        let options = &self.config.options;
        let comes_back = options.keep_addresses || options.allow_in_use;
        if comes_back || record.device.network.is_empty() {
            return Ok(());
        }
        record.device.network = NetworkState::default();
        records().write(record)
    }

    fn is_attached(args: &CmdArgs, record: &Record) -> Result<bool> {
        give_back::is_attached(args, record)
    }

    fn remove(args: &CmdArgs, record: &Record, release: &mut Release<'_>) -> Result<()> {
        give_back::remove(args, record, release)
    }

    fn tidy_up(device: &Device) -> Result<()> {
        device_info::remove(device)
    }

    /// Another attachment may have the device when the next DEL comes.
    fn note_removed(record: &Record) -> Result<()> {
        records().write(&recover::returned(record))
    }

    /// No ADD looks through all records meanwhile, and writes those of devices that have come
    /// back.
    fn forget(args: &CmdArgs) -> Result<()> {
        let _devices = Turn::of_devices()?;
        records().remove(args)
    }

    fn is_meant(args: &CmdArgs, record: &Record) -> bool {
        unrecorded::is_meant(args, record)
    }

    fn remove_unrecorded(args: &CmdArgs, _damaged: bool, _: &mut Release<'_>) -> Result<bool> {
        unrecorded::give_back(args)
    }

    fn verify_without_link(args: &CmdArgs, record: Option<&Record>) -> Result<bool> {
        userspace::verify(args, record)
    }

    fn verify(
        _args: &CmdArgs,
        record: Option<&Record>,
        link: &Link,
        _sandbox: Sandbox,
    ) -> Result<()> {
        identity::verify(link, record)
    }

    fn status(conf: &ConfArgs) -> Result<()> {
        find::examine(conf, &mut Host::open()?).map(drop)
    }

    fn collect_unrecorded(conf: &ConfArgs) -> Result<()> {
        // What cannot be read names no device.
        let Some(selector) = DeviceSelector::from_document(&conf.document).ok().flatten() else {
            return Ok(());
        };
        let _devices = Turn::of_devices()?;
        unrecorded::name_on_host(&mut Host::open()?, &selector, None)
    }
}
