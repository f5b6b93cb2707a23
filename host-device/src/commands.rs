//! The commands of the CNI plugin `host-device`: moves a whole device of the host into the
//! container, and back with its name and its properties. A device that is bound to a driver
//! for user space (DPDK) is not moved. This file has the plugin's part of an attachment;
//! `common::attach` has the rest.

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

/// The commands of the plugin.
pub const COMMANDS: Commands =
    attach::commands::<HostDevice>(env!("CARGO_PKG_VERSION"), common::marker!("host-device"));

type Record = Attachment<Device>;

/// The device that a configuration selects.
struct HostDevice {
    config: Config,
}

impl Interface for HostDevice {
    const NAME: &'static str = NAME;
    type Device = Device;
    /// The turn of the node's devices, in which no other process searches for a device.
    type Plan = Option<Turn>;

    fn configure(args: &CmdArgs, _prev_result: Option<&AddResult>) -> Result<Self> {
        let config = Config::parse(&args.conf)?;
        Ok(Self { config })
    }

    fn keeps_addresses(&self) -> bool {
        self.config.options.keep_addresses
    }

    fn plan(&self, args: &CmdArgs, sides: &mut Sides) -> Result<(Device, Option<Turn>)> {
        // The turn is not held while this waits for a device that is being attached.
        awaited::find(|| {
            let devices = Turn::of_devices()?;
            let device = plan::plan(args, &self.config, sides)?;
            inventory::require_staying(&device.name, device.hardware_mac())?;
            Ok((device, devices))
        })
    }

    /// Moves the device. If another interface still uses it, it is moved back at once.
    fn make(&self, devices: Option<Turn>, record: &mut Record, sides: &mut Sides) -> Made<Placed> {
        let moved = transfer::move_in(&mut sides.node, &mut sides.sandbox, record);
        // [`transfer::undo_move_in`] takes the turn itself.
        drop(devices);
        let made = match moved {
            Ok(link) => Made::Done(link),
            Err(error) => transfer::undo_move_in(&mut sides.node, record, error),
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

    /// The addresses and routes of the device on the node are restored by a failed ADD. DEL
    /// restores them only if the configuration says so, so otherwise they are removed from the
    /// record here.
    fn trim_record(&self, record: &mut Record) -> Result<()> {
        let options = &self.config.options;
        let is_restored = options.keep_addresses || options.allow_in_use;
        if is_restored || record.device.network.is_empty() {
            return Ok(());
        }
        // If this write fails, the node gets them back by the record that is kept.
        let mut trimmed = record.clone();
        trimmed.device.network = NetworkState::default();
        records().write(&trimmed)?;
        *record = trimmed;
        Ok(())
    }

    fn is_attached(args: &CmdArgs, record: &Record) -> Result<bool> {
        give_back::is_attached(args, record)
    }

    fn remove(args: &CmdArgs, record: &Record, release: &mut Release<'_>) -> Result<()> {
        give_back::remove(args, record, release)
    }

    fn remove_extras(device: &Device) -> Result<()> {
        device_info::remove(device)
    }

    /// The next DEL must not take the device from another attachment that may have it then.
    fn note_removed(record: &Record) -> Result<()> {
        records().write_at_end(&recover::returned(record))
    }

    /// Takes the turn, because an ADD reads all records in it and writes those of devices that
    /// are back on the node.
    fn forget(args: &CmdArgs) -> Result<()> {
        let _devices = Turn::of_devices()?;
        records().remove(args)
    }

    fn is_renamed(args: &CmdArgs, record: &Record) -> bool {
        unrecorded::is_renamed(args, record)
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
        // A configuration that cannot be read does not name a device.
        let Some(selector) = DeviceSelector::from_document(&conf.document).ok().flatten() else {
            return Ok(());
        };
        let _devices = Turn::of_devices()?;
        unrecorded::name_on_host(&mut Host::open()?, &selector, None)
    }
}
