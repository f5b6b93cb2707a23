//! The commands of the IPAM plugin for networks without ranges: ipvlan or host-device calls it
//! instead of host-local, and EC2 chooses the addresses.

use common::address::{Cidr, step};
use common::attach::Sandbox;
use common::cni::args::CmdArgs;
use common::cni::result::{AddResult, IpConfig};
use common::error::{Error, Result};

use crate::ledger::Ledger;
use crate::plugin::agent_first::{agent_first, own_aws};
use crate::plugin::attachment::{self, owner};
use crate::plugin::section::Section;
use crate::plugin::socket;
use crate::plugin::verify::{verify, verify_whole};
use crate::registration::choose::choose;
use crate::registration::desired;
use crate::registration::node::Node;
use crate::registration::request::{Choice, Request};
use crate::registration::shared::Shared;
use crate::vpc::inventory;

/// The kinds of links that share the ENI below them with others.
const SHARING: [&str; 4] = ["ipvlan", "ipvtap", "macvlan", "macvtap"];

/// The ENI that an attachment uses.
struct Place {
    /// Its MAC address.
    mac: String,
    /// Whether the attachment has all of it.
    is_whole: bool,
}

pub(super) fn add(args: &CmdArgs) -> Result<AddResult> {
    let deadline = attachment::deadline();
    let section = Section::parse(&args.conf, &args.cni_args)?;
    let place = Place::of(args)?;
    let request = request(args, &section)?;
    let choice = Choice {
        mac: place.mac,
        families: section.families.clone(),
        addresses: section.addresses.clone(),
        is_whole: place.is_whole,
    };
    let ask = || socket::choose(&choice, &request, deadline);
    let addresses = agent_first(&args.conf, deadline, ask, |aws| {
        let (ledger, shared) = (Ledger::of_node(), Shared::default());
        choose(aws, &ledger, &shared, &choice, &request)
    })?;
    Ok(result(addresses, section))
}

fn request(args: &CmdArgs, section: &Section) -> Result<Request> {
    Ok(Request {
        owner: owner(args, section.cooldown, section.takeover)?,
        takeover: section.takeover,
        best_effort: false,
    })
}

fn result(addresses: Vec<Cidr>, section: Section) -> AddResult {
    let ip = |address: Cidr| IpConfig {
        address,
        gateway: router(address).filter(|_| section.gateway),
        interface: None,
    };
    AddResult {
        ips: addresses.into_iter().map(ip).collect(),
        routes: section.routes,
        ..AddResult::default()
    }
}

/// The router of a subnet, for IPv4. An IPv6 router is link-local and announces its address
/// itself. Source: Amazon VPC User Guide, "Subnet sizing": the second address is the VPC
/// router's.
fn router(address: Cidr) -> Option<std::net::IpAddr> {
    let router = step(address.network().address(), 1);
    address.is_ipv4().then_some(router)
}

pub(super) fn check(args: &CmdArgs) -> Result<()> {
    let section = Section::parse(&args.conf, &args.cni_args)?;
    let prev_result = args.conf.document.prev_result(args.conf.version)?;
    let prev_result = prev_result.ok_or_else(|| Error::config("Required prevResult missing"))?;
    let place = Place::of(args)?;
    let wanted = desired::by_mac(&prev_result, args)?;
    let request = request(args, &section)?;
    let aws = own_aws(&args.conf, attachment::deadline());
    let (inventory, eni) = inventory::find(&aws, &place.mac)?;
    let node = Node {
        aws: &aws,
        ledger: &Ledger::of_node(),
        inventory: &inventory,
        shared: &Shared::default(),
    };
    let addresses = wanted
        .get(&place.mac)
        .map(Vec::as_slice)
        .unwrap_or_default();
    match place.is_whole && section.addresses.is_empty() {
        true => verify_whole(&node, &eni, addresses),
        false => verify(&node, &eni, addresses, &request),
    }
}

impl Place {
    /// The ENI of the interface that the calling plugin has made.
    fn of(args: &CmdArgs) -> Result<Self> {
        let ifname = args.ifname.to_string();
        let recorded = desired::recorded_mac(args)?;
        let link = Sandbox::open(&args.netns)?.netlink.link_by_name(&ifname)?;
        if let Some(link) = link {
            return Ok(Self {
                is_whole: !SHARING.contains(&link.kind.as_str()),
                mac: recorded.unwrap_or_else(|| link.hardware_mac().to_owned()),
            });
        }
        // A device that is bound to a driver for user space has no interface.
        let mac = recorded.ok_or_else(|| {
            let msg = format!("interface {ifname:?} has no MAC address");
            let details = "eni-sync finds the ENI by it: it is asked for addresses by a plugin \
                           that has made the interface, and that knows a device by its record";
            Error::config(msg).with_details(details)
        })?;
        Ok(Self {
            mac,
            is_whole: true,
        })
    }
}
