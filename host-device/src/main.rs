//! host-device: moves a whole device of the host into the container and gives it
//! back, under its name and with its properties. A device that is bound to a driver
//! for user space (DPDK) stays where it is. This file is the flow of every command.

use std::process::ExitCode;

use common::args::{CmdArgs, Command, ConfArgs};
use common::attach::Options as NetworkOptions;
use common::attach::{Attachment, Recorded, Sandbox};
use common::config::NetConf;
use common::error::{Error, ErrorCode, Errors, Result};
use common::ipam::IpamPlugin;
use common::netlink::{Link, NetworkState};
use common::plugin::{self, Commands};
use common::requested_mac::requested_mac;
use common::result::{AddResult, Interface};
use common::say;
use common::turn::Turn;

use host_device::config::{Config, DeviceSelector};
use host_device::device::{Device, Mode};
use host_device::find::find_device;
use host_device::options::Options;
use host_device::restore::Host;
use host_device::{
    device, device_info, find, in_use, keep, records, stacked, transfer, unrecorded,
};

fn main() -> ExitCode {
    plugin::run(&Commands {
        name: "host-device",
        version: env!("CARGO_PKG_VERSION"),
        add,
        check,
        del,
        status,
        gc,
    })
}

fn add(args: &CmdArgs) -> Result<AddResult> {
    let config = Config::parse(&args.conf)?;
    let _turn = Turn::to_attach(args)?;
    let mut sandbox = Sandbox::open(&args.netns)?;
    let mut host = Host::open()?;
    end_stale_attachment(args)?;

    let (mut record, link) = take_device(args, &config, &mut host, &mut sandbox)?;
    attach(args, config, link.as_ref(), &mut record, &mut sandbox)
        .map_err(|error| undone(error, detach(args, &record)))
}

/// Finds the device, records what it is, and moves it into the container. There is no
/// link when it stays on the host.
fn take_device(
    args: &CmdArgs,
    config: &Config,
    host: &mut Host,
    sandbox: &mut Sandbox,
) -> Result<(Attachment<Device>, Option<Link>)> {
    let devices = Turn::of_devices()?;
    let known = transfer::recover(host, &records())?;
    let device = find_or_name_device(args, config, host)?;
    device.require_mac(requested_mac(args)?)?;
    transfer::require_movable(&device, sandbox, &args.ifname)?;
    let device = plan_return(device, &config.options, host)?;
    let device = transfer::as_before(known, device)?;
    let device = device_info::plan(device, config.options.device_info_file.as_deref());
    let mut record = Attachment::new(args, &sandbox.netns, device)?;
    record.source_routing = config.network_options.plan(sandbox)?;
    records().write(&record)?;
    let moved = transfer::move_in(host, sandbox, &record).and_then(|link| {
        if let Some(link) = link
            .as_ref()
            .filter(|_| record.device.is_hardware() && !record.device.in_use)
        {
            stacked::require_unused(sandbox, link)?;
        }
        Ok(link)
    });
    drop(devices);
    match moved {
        Ok(link) => Ok((record, link)),
        Err(error) => Err(undone(error, abandon(args, &record))),
    }
}

/// Ends what an earlier ADD of the same attachment has left, so that its record,
/// which is the only way back for its device, is not overwritten.
fn end_stale_attachment(args: &CmdArgs) -> Result<()> {
    let Some(record) = records().read::<Device>(args)? else {
        return Ok(());
    };
    if transfer::is_attached(&record, args)? {
        return Err(record.is_in_use());
    }
    detach(&record.del_args(&args.conf.path)?, &record)
}

/// Finds the device. Where the Go plugin had it in a container that has ended, the kernel
/// has put it on the node under the container's name for it.
fn find_or_name_device(args: &CmdArgs, config: &Config, host: &mut Host) -> Result<Device> {
    let find = |host: &mut Host| find_device(host, &config.selector, &config.options);
    let device = match find(host) {
        Err(error) if error.code != ErrorCode::NETWORK_CONFIG => {
            unrecorded::name_on_host(host, &config.selector, Some(&args.ifname))?;
            find(host)?
        }
        outcome => outcome?,
    };
    unrecorded::under_own_name(host, device, &args.ifname)
}

/// The device with what the kernel drops when it leaves: an ADD that fails gives it back.
fn plan_return(device: Device, options: &Options, host: &mut Host) -> Result<Device> {
    let controller = match options.allow_in_use {
        true => in_use::controller(&mut host.netlink, &device)?,
        false => None,
    };
    let device = keep::plan(&mut host.netlink, device)?;
    Ok(Device {
        controller,
        in_use: options.allow_in_use,
        ..device
    })
}

/// Gives the device the addresses of the delegate, if there is one, and sets it up.
/// There is no link when the device stays on the host.
fn attach(
    args: &CmdArgs,
    config: Config,
    link: Option<&Link>,
    record: &mut Attachment<Device>,
    sandbox: &mut Sandbox,
) -> Result<AddResult> {
    device_info::write(&record.device)?;
    if let Some(link) = link {
        sandbox.set_up(link, &config.network_options)?;
    }
    let mut own = match config.ipam {
        Some(ipam) => ipam.add(args)?,
        None => AddResult::default(),
    };
    let keeps = config.options.keep_addresses;
    if keeps {
        keep::add_to(&record.device.network, &mut own);
    }
    let interface = Interface {
        name: args.ifname.to_string(),
        mac: link.map_or(String::new(), |link| link.mac.clone()),
        mtu: link.map_or(0, |link| link.mtu),
        sandbox: args.netns.clone(),
        pci_id: record.device.pci_id.clone(),
        ..Interface::default()
    };
    let mut own = own.attached(interface, config.dns);
    if let Some(link) = link {
        record.claim(&records(), link, &mut own)?;
        let (dad, policy) = (config.network_options.dad, record.source_routing.as_ref());
        match keeps {
            true => sandbox.configure_beside(link, &own, &record.device.network, (dad, policy))?,
            false => sandbox.configure(link, &own, dad, policy)?,
        }
    }
    let comes_back = keeps || config.options.allow_in_use;
    if !comes_back && !record.device.network.is_empty() {
        // Only an ADD that fails gives it back.
        record.device.network = NetworkState::default();
        records().write(record)?;
    }
    Ok(config.prev_result.unwrap_or_default().append(own))
}

fn del(args: &CmdArgs) -> Result<()> {
    let _turn = Turn::to_detach(args)?;
    match records().look_up::<Device>(args)? {
        Recorded::Whole(record) => detach(args, &record),
        Recorded::Absent => {
            match unrecorded::renamed(args, &records())? {
                Some(record) => detach(&record.del_args(&args.conf.path)?, &record)?,
                None => drop(unrecorded::give_back(args, &records())?),
            }
            end_unrecorded(args)
        }
        Recorded::Damaged(damage) => {
            if !unrecorded::give_back(args, &records())? {
                return Err(damage);
            }
            say!("{damage}");
            end_unrecorded(args)
        }
    }
}

/// Releases the addresses of an attachment whose device has come back without a record.
fn end_unrecorded(args: &CmdArgs) -> Result<()> {
    IpamPlugin::release::<Device>(args, None)?;
    // A killed ADD may have begun to write one.
    forget(args)
}

/// Ends an attachment: the device goes back, and its rules, then the addresses, then the
/// record. A device that cannot be given back keeps its addresses reserved, unless their
/// delegate needs it: that releases them first, when they have left the device.
fn detach(args: &CmdArgs, record: &Attachment<Device>) -> Result<()> {
    transfer::require_unused(record, args)?;
    let mut host = Host::open()?;
    let (sandbox, released) = release_early(args, record, &mut host)?;
    transfer::give_back(&mut host, &records(), record, args, sandbox)?;
    let mut errors = Errors::default();
    errors.keep(device_info::remove(&record.device));
    let rules = record.withdraw_rules(args);
    errors.keep(
        rules.and_then(|()| released.unwrap_or_else(|| IpamPlugin::release(args, Some(record)))),
    );
    if let Err(error) = errors.into_result() {
        // The next DEL must leave the device alone: another may have it by then.
        let remembered = records().write(&transfer::returned(record));
        return Err(undone(error, remembered));
    }
    forget(args)
}

/// Ends an attachment for which no delegate was asked yet.
fn abandon(args: &CmdArgs, record: &Attachment<Device>) -> Result<()> {
    transfer::give_back(&mut Host::open()?, &records(), record, args, None)?;
    forget(args)
}

/// Removes the record, while no ADD looks through all of them and writes those of devices
/// that have come back.
fn forget(args: &CmdArgs) -> Result<()> {
    let _devices = Turn::of_devices()?;
    records().remove(args)
}

/// Lets a delegate that needs the device release its addresses while it is in the container.
/// Returns the container's namespace and what came of it, or nothing when that is to be done
/// after the device has come back. No turn is held meanwhile: a delegate can take long.
fn release_early(
    args: &CmdArgs,
    record: &Attachment<Device>,
    host: &mut Host,
) -> Result<(Option<Sandbox>, Option<Result<()>>)> {
    if !IpamPlugin::needs_link(&record.ipam_plugin()) {
        return Ok((None, None));
    }
    let Some((mut sandbox, link)) = transfer::find_in_container(host, record, args)? else {
        return Ok((None, None));
    };
    let link = (&mut sandbox.netlink, &link);
    let released = IpamPlugin::release_early(args, Some(record), link);
    Ok((Some(sandbox), released))
}

/// The error that counts: the first one. What went wrong while cleaning up after it
/// is only shown.
fn undone(error: Error, outcome: Result<()>) -> Error {
    if let Err(later) = outcome {
        say!("cleaning up after a failure: {later}");
    }
    error
}

fn check(args: &CmdArgs) -> Result<()> {
    let net_conf: NetConf = args.conf.document.read("failed to load netconf")?;
    let prev_result = args.conf.document.prev_result(args.conf.version)?;
    let prev_result = prev_result.ok_or_else(|| Error::config("Required prevResult missing"))?;
    let options = NetworkOptions::from_document(&args.conf.document)?;
    let mut sandbox = Sandbox::open(&args.netns)?;
    if let Some(ipam) = IpamPlugin::find_configured(&net_conf.ipam.plugin, &args.conf.path)? {
        ipam.check(args)?;
    }
    let record = records().read::<Device>(args)?;
    let is_dpdk = match &record {
        Some(record) => record.device.mode == Mode::Dpdk,
        None => {
            let driver = Options::parse(&args.conf.document)?.driver;
            driver.is_some() || device::is_dpdk(&DeviceSelector::required(&args.conf.document)?)
        }
    };
    if is_dpdk {
        return record.map_or(Ok(()), |record| transfer::verify_binding(&record.device));
    }
    let link = sandbox.verify(&args.ifname, &prev_result)?;
    let policy = record.as_ref().and_then(|r| r.source_routing.as_ref());
    options.verify(&mut sandbox, &link, &prev_result, policy)?;
    verify_device(&link, record.as_ref())
}

/// Makes sure that `link` is the attached device. A plugin behind this one may have given it
/// another MAC, which was compared with the result, and another MTU, which is in no result.
fn verify_device(link: &Link, record: Option<&Attachment<Device>>) -> Result<()> {
    let is_other = |r: &Attachment<Device>| {
        let as_attached = Link {
            mac: r.device.mac.clone(),
            ..link.clone()
        };
        let links = std::slice::from_ref(&as_attached);
        r.device.among(links, &r.ifname).is_none()
    };
    match record.filter(|record| is_other(record)) {
        Some(record) => Err(Error::internal(format!(
            "Interface {} is not the host device {:?} that was attached",
            link.name, record.device.name
        ))),
        None => Ok(()),
    }
}

fn status(conf: &ConfArgs) -> Result<()> {
    find::examine(conf, &mut Host::open()?)?;
    let net_conf: NetConf = conf.document.read("failed to load netconf")?;
    match IpamPlugin::find_configured(&net_conf.ipam.plugin, &conf.path)? {
        Some(ipam) => ipam.forward(Command::Status, conf),
        None => Ok(()),
    }
}

fn gc(conf: &ConfArgs) -> Result<()> {
    records().collect_garbage(conf, detach)?;
    // What cannot be read names no device; without a list GC changes nothing.
    let selector = DeviceSelector::from_document(&conf.document).ok().flatten();
    match selector.filter(|_| conf.document.valid_attachments().is_ok_and(|v| v.is_some())) {
        Some(selector) => {
            let _devices = Turn::of_devices()?;
            unrecorded::name_on_host(&mut Host::open()?, &selector, None)
        }
        None => Ok(()),
    }
}
