//! ADD: everything is validated, then planned, then recorded, then made. After the record is
//! written, a failure is undone in the way of DEL.

use std::time::Instant;

use super::configuration::{Configuration, not_expressible};
use super::deadlines;
use super::end::{end, end_stale};
use super::sandbox::Sides;
use super::{Interface, Placed, records, undone};
use crate::address::Cidr;
use crate::attach::turn::Turn;
use crate::cni::args::CmdArgs;
use crate::cni::ipam::IpamPlugin;
use crate::cni::result::{self, AddResult};
use crate::cni::version::CniVersion;
use crate::error::Result;
use crate::kernel::netlink::Made;
use crate::records::Attachment;
use crate::say;

/// How many other addresses an ADD asks for when an interface on the same master has the
/// address already: enough to skip a few of them, within the time that a runtime waits.
const OTHER_ADDRESSES: usize = 16;

/// The input of one ADD, validated.
struct Add<'a, I> {
    args: &'a CmdArgs,
    conf: Configuration,
    prev_result: Option<AddResult>,
    ipam: Option<IpamPlugin>,
    interface: I,
}

/// Attaches the container, or fails and undoes all changes.
pub(super) fn add<I: Interface>(args: &CmdArgs) -> Result<AddResult> {
    let add = Add::<I>::parse(args)?;
    let _turn = Turn::to_attach(args)?;
    let mut sides = Sides::open(&args.netns)?;
    add.attach(&mut sides)
}

impl<'a, I: Interface> Add<'a, I> {
    fn parse(args: &'a CmdArgs) -> Result<Self> {
        let prev_result = args.conf.document.prev_result(args.conf.version)?;
        let conf = Configuration::of(&args.conf)?;
        let interface = I::configure(args, prev_result.as_ref())?;
        let ipam = conf.find_ipam(&args.conf)?;
        let has_earlier = prev_result.as_ref().is_some_and(|r| !r.ips.is_empty());
        let has_addresses = ipam.is_some() || has_earlier || interface.keeps_addresses();
        if args.conf.version <= CniVersion::V0_2_0 && !has_addresses {
            return Err(not_expressible(&args.conf));
        }
        Ok(Self {
            args,
            conf,
            prev_result,
            ipam,
            interface,
        })
    }

    /// Attaches, and asks the delegate for another address while the kernel reports that the
    /// address is in use.
    fn attach(&self, sides: &mut Sides) -> Result<AddResult> {
        let begun = Instant::now();
        let mut refused = Vec::new();
        loop {
            let mut given = Vec::new();
            let failed = match self.attempt(sides, &mut given) {
                Err(error) if error.is_address_in_use() => error,
                outcome => return outcome,
            };
            let is_new = self.ipam.is_some() && !refused.contains(&given);
            if !is_new
                || refused.len() == OTHER_ADDRESSES
                || begun.elapsed() > deadlines::OTHER_ADDRESSES
            {
                return Err(failed);
            }
            say!("{failed}; asking for another one");
            refused.push(given);
        }
    }

    /// Attaches, or fails and undoes its changes. The addresses for the interface are added to
    /// `given`.
    fn attempt(&self, sides: &mut Sides, given: &mut Vec<Cidr>) -> Result<AddResult> {
        let Self {
            args, interface, ..
        } = self;
        end_stale::<I>(args)?;
        let (device, plan) = interface.plan(args, sides)?;
        let mut record = Attachment::new(args, &sides.sandbox.netns, device)?;
        record.source_routing = self.conf.options.plan(&mut sides.sandbox)?;
        records::<I>().write(&record)?;
        let made = interface.make(plan, &mut record, sides);
        let configured = match made {
            Made::Done(placed) => self.configure(&mut record, &placed, sides, given),
            Made::Nothing(error) => return Err(undone(error, I::forget(args))),
            Made::Perhaps(error) => Err(error),
        };
        configured.map_err(|mut error| {
            if error.is_address_in_use() {
                error = interface.name_holder(error, &record, given, sides);
            }
            undone(error, end::<I>(args, &record))
        })
    }

    /// Sets the interface up, and adds its addresses and routes.
    fn configure(
        &self,
        record: &mut Attachment<I::Device>,
        placed: &Placed,
        sides: &mut Sides,
        given: &mut Vec<Cidr>,
    ) -> Result<AddResult> {
        let Self { args, conf, .. } = self;
        if let Some(link) = &placed.link {
            sides.sandbox.set_up(link, &conf.options)?;
        }
        let reserved = match &self.ipam {
            Some(ipam) => Some(ipam.add(args)?),
            None => None,
        };
        let mut earlier = self.prev_result.clone().unwrap_or_default();
        let own = self
            .interface
            .addresses(&record.device, reserved, &mut earlier);
        given.extend(own.ips.iter().map(|ip| ip.address));
        let mut own = own.attached(reported(args, placed), conf.dns.clone());
        if let Some(link) = &placed.link {
            record.claim(&records::<I>(), link, &mut own)?;
            let (dad, policy) = (conf.options.dad, record.source_routing.as_ref());
            let carried = &placed.carried;
            sides
                .sandbox
                .configure(link, &own, carried, (dad, policy))?;
        }
        self.interface.trim_record(record)?;
        Ok(earlier.append(own))
    }
}

/// The interface as the result of ADD shows it.
fn reported(args: &CmdArgs, placed: &Placed) -> result::Interface {
    let link = placed.link.as_ref();
    result::Interface {
        name: args.ifname.to_string(),
        mac: link.map_or(String::new(), |link| link.mac.clone()),
        mtu: link.map_or(0, |link| link.mtu),
        sandbox: args.netns.clone(),
        pci_id: placed.pci_id.clone(),
        ..result::Interface::default()
    }
}
