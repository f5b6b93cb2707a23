//! CNI plugin `ipvlan`: gives a pod an ipvlan interface on a master of the node,
//! typically a secondary ENI, and configures it with addresses from an IPAM plugin
//! or from the plugin before it in the chain.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::address::Cidr;
use common::args::{CmdArgs, Command, ConfArgs};
use common::attach::{Attachment, Recorded, Sandbox, sandbox_for_del};
use common::error::{Error, ErrorCode, Result};
use common::ipam::IpamPlugin;
use common::netlink::{Link, Made, Netlink};
use common::plugin::{self, Commands};
use common::result::{AddResult, Interface};
use common::say;
use common::turn::Turn;
use nix::libc::EADDRINUSE;

use ipvlan::carrier::Sides;
use ipvlan::config::NetConf;
use ipvlan::link::Device;
use ipvlan::{link, master, neighbours, records, status};

/// How many other addresses an ADD asks for when the one that it was given is in use on the
/// master: enough to pass a few, and no more than a runtime waits for.
const OTHER_ADDRESSES: usize = 16;
/// For how long it goes on to ask.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    plugin::run(&Commands {
        name: "ipvlan",
        version: env!("CARGO_PKG_VERSION"),
        add,
        check,
        del,
        status,
        gc,
    })
}

fn add(args: &CmdArgs) -> Result<AddResult> {
    let conf = NetConf::for_add(args)?;
    let ipam = IpamPlugin::find_configured(&conf.ipam, &args.conf.path)?;
    let _turn = Turn::to_attach(args)?;
    let mut sides = Sides::open(&args.netns)?;
    let add = Add { args, conf, ipam };
    let begun = Instant::now();
    let mut refused = Vec::new();
    loop {
        let mut given = Vec::new();
        let failed = match add.attempt(&mut sides, &mut given) {
            Err(error) if error.errno() == Some(EADDRINUSE) => error,
            outcome => return outcome,
        };
        let is_new = add.ipam.is_some() && !refused.contains(&given);
        if !is_new || refused.len() == OTHER_ADDRESSES || begun.elapsed() > PATIENCE {
            return Err(failed);
        }
        say!("{failed}; asking for another one");
        refused.push(given);
    }
}

/// One ADD.
struct Add<'a> {
    args: &'a CmdArgs,
    conf: NetConf,
    ipam: Option<IpamPlugin>,
}

impl Add<'_> {
    /// Attaches the container, or leaves everything as it was. `given` gets the addresses
    /// that the interface was to have.
    fn attempt(&self, sides: &mut Sides, given: &mut Vec<Cidr>) -> Result<AddResult> {
        let Self { args, conf, .. } = self;
        let master = master::find(conf, sides.of_master(conf.link_in_container))?;
        sides.sandbox.require_absent(&args.ifname)?;
        end_stale_attachment(args)?;

        let device = Device::of(conf, &master, args, sides)?;
        let mut record = Attachment::new(args, &sides.sandbox.netns, device)?;
        record.source_routing = conf.options.plan(&mut sides.sandbox)?;
        records().write(&record)?;
        neighbours::refuse_other_use(&record, &master, &records(), sides)
            .map_err(|error| forget(args, error))?;
        match link::create(conf, &master, &record, sides) {
            Made::Done => {}
            Made::Nothing(error) => return Err(forget(args, error)),
            Made::Perhaps(error) => return Err(undo(args, error)),
        }
        master::set_up(&master, sides.of_master(conf.link_in_container))
            .and_then(|()| self.configure(&mut record, sides, given))
            .map_err(|error| match error.errno() {
                Some(EADDRINUSE) => {
                    neighbours::name_holder(error, &record, given, &records(), sides)
                }
                _ => error,
            })
            .map_err(|error| undo(args, error))
    }

    /// Gives the new interface its addresses: from the IPAM plugin, else from the plugin
    /// before us, else none.
    fn configure(
        &self,
        record: &mut Attachment<Device>,
        sides: &mut Sides,
        given: &mut Vec<Cidr>,
    ) -> Result<AddResult> {
        let Self { args, conf, ipam } = self;
        let link = sides.sandbox.require(&args.ifname)?;
        link::read_back(&link, record, &records(), sides)?;
        sides.sandbox.set_up(&link, &conf.options)?;
        let mut prev_result = conf.prev_result.clone().unwrap_or_default();
        let own = match ipam {
            Some(ipam) => ipam.add(args)?,
            None => take_addresses(&mut prev_result),
        };
        given.extend(own.ips.iter().map(|ip| ip.address));
        let interface = Interface {
            name: link.name.clone(),
            mac: link.mac.clone(),
            mtu: link.mtu,
            sandbox: args.netns.clone(),
            pci_id: record.device.pci_id.clone(),
            ..Interface::default()
        };
        let mut own = own.attached(interface, conf.dns.clone());
        record.claim(&records(), &link, &mut own)?;
        let (dad, policy) = (conf.options.dad, record.source_routing.as_ref());
        sides.sandbox.configure(&link, &own, dad, policy)?;
        Ok(prev_result.append(own))
    }
}

/// Takes from the result of the plugin before us the addresses that are on no
/// interface of the container yet, and the routes that go with them.
fn take_addresses(prev_result: &mut AddResult) -> AddResult {
    let in_container: Vec<bool> = prev_result
        .interfaces
        .iter()
        .map(|i| !i.sandbox.is_empty())
        .collect();
    let is_placed =
        |index: Option<usize>| index.is_some_and(|i| in_container.get(i) == Some(&true));
    let (placed, ips): (Vec<_>, Vec<_>) = std::mem::take(&mut prev_result.ips)
        .into_iter()
        .partition(|ip| is_placed(ip.interface));
    prev_result.ips = placed;
    let routes = match ips.is_empty() {
        true => Vec::new(),
        false => std::mem::take(&mut prev_result.routes),
    };
    AddResult {
        ips,
        routes,
        ..AddResult::default()
    }
}

fn del(args: &CmdArgs) -> Result<()> {
    let _turn = Turn::to_detach(args)?;
    if let Recorded::Absent = records().look_up::<Device>(args)?
        && let Some(record) = records().read_renamed(args, |record| is_meant(args, record))?
    {
        detach(&record.del_args(&args.conf.path)?, Some(&record))?;
    }
    end(args)
}

/// Whether the DEL of a network that was renamed is about this attachment: its result names
/// the interface, or the container has ended and the master is the configured one. While
/// the container lives, a master alone proves nothing: the DEL may follow a refused ADD of
/// another network that has the same one.
fn is_meant(args: &CmdArgs, record: &Attachment<Device>) -> bool {
    // What cannot be read or found proves nothing, and DEL must not fail because of it.
    let document = &args.conf.document;
    let result = document.prev_result(args.conf.version).ok().flatten();
    let reported = result.and_then(|result| {
        let index = result.find_interface(args.ifname.as_str(), &args.netns)?;
        Some(result.interfaces.get(index)?.mac.to_ascii_lowercase())
    });
    if reported.is_some_and(|mac| mac == record.device.master_mac) {
        return true;
    }
    if record.is_alive().unwrap_or(true) {
        return false;
    }
    let find = || master::find(&NetConf::parse(&args.conf)?, &mut Netlink::open()?);
    let is_named = document.get("master").is_some() || document.get("masterSelector").is_some();
    let carrier = record.device.carrier;
    let is_configured = |master: Link| master.index == carrier.index;
    let is_on_node = !carrier.in_container && carrier.third_netns.is_none();
    is_named && is_on_node && find().is_ok_and(is_configured)
}

/// Ends the attachment, as far as it was made.
fn end(args: &CmdArgs) -> Result<()> {
    match records().look_up::<Device>(args)? {
        Recorded::Whole(record) => detach(args, Some(&record)),
        Recorded::Absent => detach(args, None),
        Recorded::Damaged(damage) if is_proven(args)? => {
            say!("{damage}");
            detach(args, None)
        }
        Recorded::Damaged(damage) => Err(damage),
    }
}

/// Whether DEL can end an attachment whose record cannot be read: its configuration says who
/// has reserved the addresses, and no ipvlan interface keeps one that is not the attachment's
/// for certain.
fn is_proven(args: &CmdArgs) -> Result<bool> {
    let keys = ["ipam", "master", "masterSelector"];
    if !keys.iter().any(|key| args.conf.document.get(key).is_some()) {
        return Ok(false);
    }
    let Some(mut sandbox) = sandbox_for_del::<Device>(args, None)? else {
        return Ok(true);
    };
    let link = sandbox.netlink.link_by_name(args.ifname.as_str())?;
    Ok(link.is_none_or(|link| link.kind != "ipvlan" || is_reported(args, &link)))
}

/// Undoes an ADD, as far as it came: first the interface and its rules, then its
/// addresses, then the record. What is missing is done already. An address stays reserved
/// while an interface has it. A delegate that needs the interface releases its addresses
/// first, when they have left that.
fn detach(args: &CmdArgs, record: Option<&Attachment<Device>>) -> Result<()> {
    let mut released = None;
    if let Some((mut sandbox, link)) = find_link(args, record)? {
        released = IpamPlugin::release_early(args, record, (&mut sandbox.netlink, &link));
        sandbox.netlink.delete_link(&link)?;
    }
    if let Some(record) = record {
        record.withdraw_rules(args)?;
    }
    released.unwrap_or_else(|| IpamPlugin::release(args, record))?;
    records().remove(args)
}

/// The container's interface if it is the attachment's, and nothing that only has its name.
fn find_link(
    args: &CmdArgs,
    record: Option<&Attachment<Device>>,
) -> Result<Option<(Sandbox, Link)>> {
    let Some(mut sandbox) = sandbox_for_del(args, record)? else {
        return Ok(None);
    };
    let temporary = record.map(|record| &record.device.temporary_name);
    for name in [Some(&args.ifname), temporary].into_iter().flatten() {
        let Some(link) = sandbox.netlink.link_by_name(name.as_str())? else {
            continue;
        };
        let ours = match record {
            Some(record) => record.device.carrier.carries(&link),
            None => {
                is_reported(args, &link) && !records().has_other::<Device>(args, &sandbox.netns)?
            }
        };
        if ours {
            // It never has both names.
            return Ok(Some((sandbox, link)));
        }
    }
    Ok(None)
}

fn is_reported(args: &CmdArgs, link: &Link) -> bool {
    // A result that cannot be read proves nothing, and DEL must not fail because of it.
    let prev_result = args
        .conf
        .document
        .prev_result(args.conf.version)
        .ok()
        .flatten();
    prev_result.is_some_and(|result| link::is_reported(link, &result, &args.netns))
}

fn check(args: &CmdArgs) -> Result<()> {
    let conf = NetConf::parse(&args.conf)?;
    let Some(prev_result) = args.conf.document.prev_result(args.conf.version)? else {
        return Err(Error::config("Required prevResult missing"));
    };
    if let Some(ipam) = IpamPlugin::find_configured(&conf.ipam, &args.conf.path)? {
        ipam.check(args)?;
    }
    let record = records().read::<Device>(args)?;
    let mut sides = Sides::open(&args.netns)?;
    let link = sides.sandbox.verify(&args.ifname, &prev_result)?;
    let policy = record.as_ref().and_then(|r| r.source_routing.as_ref());
    conf.options
        .verify(&mut sides.sandbox, &link, &prev_result, policy)?;
    let device = record.as_ref().map(|r| &r.device);
    link::verify(&link, &conf, device, &mut sides)
}

fn status(args: &ConfArgs) -> Result<()> {
    let mut node = Netlink::open()?;
    let (conf, _master) = status::examine(args, &mut node)?;
    master::require_ipvlan(&mut node).map_err(|error| error.with_code(ErrorCode::UNAVAILABLE))?;
    match IpamPlugin::find_configured(&conf.ipam, &args.path)? {
        Some(ipam) => ipam.forward(Command::Status, args),
        None => Ok(()),
    }
}

fn gc(conf: &ConfArgs) -> Result<()> {
    records().collect_garbage(conf, |args, record| detach(args, Some(record)))
}

/// Ends an attachment that has a record but no interface any more: an ADD that was
/// killed, or one of an earlier boot. What another namespace still has is in use.
fn end_stale_attachment(args: &CmdArgs) -> Result<()> {
    let Some(record) = records().read::<Device>(args)? else {
        return Ok(());
    };
    let args = record.del_args(&args.conf.path)?;
    if let Some(mut sandbox) = sandbox_for_del(&args, Some(&record))?
        && let Some(link) = sandbox.netlink.link_by_name(args.ifname.as_str())?
        && record.device.carrier.carries(&link)
    {
        return Err(record.is_in_use());
    }
    detach(&args, Some(&record))
}

/// Undoes a failed ADD and returns the error that made it fail.
fn undo(args: &CmdArgs, error: Error) -> Error {
    if let Err(second) = end(args) {
        say!("undoing a failed ADD: {second}");
    }
    error
}

/// Removes the record of an ADD that made nothing, and returns its error.
fn forget(args: &CmdArgs, error: Error) -> Error {
    if let Err(second) = records().remove(args) {
        say!("undoing a failed ADD: {second}");
    }
    error
}
