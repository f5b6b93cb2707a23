//! Applies the result of an attachment to its interface on ADD, and compares the two on
//! CHECK.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::announce::Announcer;
use super::options::Options;
use super::route;
use crate::address::Cidr;
use crate::cni::result::{AddResult, IpConfig, Route, is_router};
use crate::error::{Error, Result};
use crate::ifname::IfName;
use crate::kernel::netlink::{
    AddressState, Change, Dad, Events, KernelAddress, KernelRoute, Link, LinkChange, Netlink,
    NetworkState, Parameter, Subject, parse_mac,
};
use crate::kernel::netns::{NetNs, read_sysctl, write_sysctl};
use crate::records::Policy;
use crate::say;

/// How long duplicate address detection may take, as in the Go plugins. With the kernel's
/// default parameters it takes 1 to 2 s.
const DAD_DEADLINE: Duration = Duration::from_secs(5);

/// The minimum MTU of a link with IPv6, in bytes (RFC 8200, section 5).
const LEAST_IPV6_MTU: u32 = 1280;
/// The directory with the parameters of IPv6; it is missing when the kernel has no IPv6.
const IPV6_PARAMETERS: &str = "/proc/sys/net/ipv6";

/// The network namespace of a container, and a netlink socket in it.
#[derive(Debug)]
pub struct Sandbox {
    /// The container's network namespace.
    pub netns: NetNs,
    /// A netlink socket inside it.
    pub netlink: Netlink,
}

impl Sandbox {
    /// Opens the namespace at `path`.
    ///
    /// # Errors
    /// Code 8 when it is missing or not a namespace, 999 when the socket cannot be created.
    pub fn open(path: &str) -> Result<Self> {
        Self::of(NetNs::open(path)?)
    }

    /// Opens the namespace at `path` for DEL; `None` when it has ended.
    ///
    /// # Errors
    /// Code 8 when it may exist and cannot be opened, 999 when the socket cannot be created.
    pub fn open_for_del(path: &str) -> Result<Option<Self>> {
        NetNs::open_for_del(path)?.map(Self::of).transpose()
    }

    /// A namespace that is open.
    ///
    /// # Errors
    /// Code 8 when it cannot be entered, 999 when the socket cannot be created.
    pub(super) fn of(netns: NetNs) -> Result<Self> {
        let netlink = Netlink::open_in(&netns)?;
        Ok(Self { netns, netlink })
    }

    /// The link `ifname`, which was just made.
    ///
    /// # Errors
    /// Code 999 when it does not exist.
    pub fn require(&mut self, ifname: &IfName) -> Result<Link> {
        let found = self.netlink.link_by_name(ifname.as_str())?;
        found.ok_or_else(|| {
            let path = self.netns.path();
            Error::internal(format!(
                "interface {:?} has vanished from netns {path:?}",
                ifname.as_str()
            ))
        })
    }

    /// Makes sure that `ifname` can be created.
    ///
    /// # Errors
    /// Code 999 when the container has an interface with that name already.
    pub fn require_absent(&mut self, ifname: &IfName) -> Result<()> {
        match self.netlink.link_by_name(ifname.as_str())? {
            None => Ok(()),
            Some(taken) => Err(Error::internal(format!(
                "interface {ifname:?} already exists in netns {:?}",
                self.netns.path(),
                ifname = ifname.as_str(),
            ))
            .with_details(format!("index {}, kind {:?}", taken.index, taken.kind))),
        }
    }

    /// Sets `link` up. This is done before the IPAM plugin is called, because a plugin such
    /// as `dhcp` sends messages to its server through the link. The parameters that protect
    /// the interface from its neighbours are set before.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer; the caller undoes what was done.
    pub(super) fn set_up(&mut self, link: &Link, options: &Options) -> Result<()> {
        self.netns.run(|| {
            restrict_neighbours(&link.name, options);
            Ok(())
        })?;
        let up = LinkChange {
            up: Some(true),
            ..LinkChange::default()
        };
        let failed = format!("failed to set {:?} UP", link.name);
        let parameters = [(Parameter::AcceptRedirects, 0), (Parameter::ArpNotify, 1)];
        self.netlink.apply(&[
            Change::parameters(link, &parameters),
            Change::link(link.index, up, failed),
        ])
    }

    /// Adds the addresses of `own` to `link`, which is up, announces them to the neighbours,
    /// and adds the routes and then those of `policy`. A part of `own` can be `carried`:
    /// addresses and routes that the interface had on the node, which are added with every
    /// attribute.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer; the caller undoes what was done.
    pub(super) fn configure(
        &mut self,
        link: &Link,
        own: &AddResult,
        carried: &NetworkState,
        (dad, policy): (Dad, Option<&Policy>),
    ) -> Result<()> {
        let addresses: Vec<Cidr> = own.ips.iter().map(|ip| ip.address).collect();
        let has_ipv6 = addresses.iter().any(|address| !address.is_ipv4());
        if has_ipv6 {
            require_ipv6(link)?;
            self.netns.run(|| enable_ipv6(&link.name))?;
        }
        // Source routing may have moved a default route to its table.
        let is_listed = |route: &KernelRoute| {
            own.routes
                .iter()
                .any(|r| route::is_listed(route, r, &own.ips))
        };
        let carried = carried.with_routes(|route| route.from_kernel || is_listed(route));
        let is_carried = carried.addresses();
        let is_new = |address: &&Cidr| !is_carried.iter().any(|a| a.cidr == **address);
        let announcer = Announcer::new(self, link, &addresses)?;
        let add_address = |address: &Cidr| Change::add_address(link, *address, dad);
        let mut changes: Vec<Change> = addresses.iter().filter(is_new).map(add_address).collect();
        if has_ipv6 && dad == Dad::On {
            self.netlink.apply(&std::mem::take(&mut changes))?;
            self.settle_addresses(link)?;
        }
        if !carried.is_empty() {
            self.netlink.apply(&std::mem::take(&mut changes))?;
            let refused = carried.restore(&mut self.netlink, link.index, &link.name);
            refused.into_iter().next().map_or(Ok(()), Err)?;
        }
        changes.extend(announcer.iter().flat_map(Announcer::changes));
        let with_carried = carried.routes();
        let is_new = |route: &&Route| {
            !with_carried
                .iter()
                .any(|r| route::is_listed(r, route, &own.ips))
        };
        let add_route = |route: &Route| route::add(link.index, route, own);
        changes.extend(own.routes.iter().filter(is_new).map(add_route));
        changes.extend(policy.iter().flat_map(|policy| policy.changes(link, own)));
        self.netlink.apply(&changes)?;
        announcer.map_or(Ok(()), |announcer| announcer.finish(self))
    }

    /// Waits until duplicate address detection has ended for every address of `link`.
    fn settle_addresses(&mut self, link: &Link) -> Result<()> {
        // Opened before the first look at the addresses, so that no change is missed.
        let changes = self.netns.run(|| Events::open(Subject::Ipv6Addresses))?;
        let deadline = Instant::now() + DAD_DEADLINE;
        loop {
            let present = self.netlink.addresses(link.index)?;
            require_no_duplicate(link, &present)?;
            let tentative = present.iter().find(|a| a.state == AddressState::Tentative);
            let Some(tentative) = tentative else {
                return Ok(());
            };
            if !changes.wait(deadline)? {
                return Err(Error::internal(format!(
                    "address {} of {:?} is still tentative: duplicate address detection \
                     has not ended within {} s",
                    tentative.cidr,
                    link.name,
                    DAD_DEADLINE.as_secs()
                ))
                .with_details("it needs a link with a carrier"));
            }
        }
    }

    /// Compares the link `ifname` with the result of ADD, and returns it.
    ///
    /// # Errors
    /// Code 7 when the result does not have the interface, 999 naming the first difference.
    pub(super) fn verify(&mut self, ifname: &IfName, prev_result: &AddResult) -> Result<Link> {
        let sandbox = self.netns.path();
        let Some(index) = prev_result.find_interface(ifname.as_str(), sandbox) else {
            return Err(Error::config(format!(
                "Sandbox in prevResult doesn't match configured netns: {sandbox} has no interface {ifname} there"
            )));
        };
        let Some(link) = self.netlink.link_by_name(ifname.as_str())? else {
            return Err(Error::internal(format!(
                "Container Interface name in prevResult: {ifname} is missing in netns {sandbox:?}"
            )));
        };
        let expected = prev_result
            .interfaces
            .get(index)
            .map_or("", |i| i.mac.as_str());
        let is_same = expected.eq_ignore_ascii_case(&link.mac)
            || parse_mac(expected).is_some_and(|mac| parse_mac(&link.mac) == Some(mac));
        if !expected.is_empty() && !is_same {
            return Err(Error::internal(format!(
                "Interface {ifname} Mac {expected} doesn't match container Mac: {}",
                link.mac
            )));
        }
        let own = own_part(prev_result, ifname.as_str(), sandbox);
        self.verify_addresses(&link, &own.ips)?;
        require_routes(&mut self.netlink, &link, &own.routes, &own.ips)?;
        Ok(link)
    }

    fn verify_addresses(&mut self, link: &Link, ips: &[IpConfig]) -> Result<()> {
        let present = self.netlink.addresses(link.index)?;
        for ip in ips {
            if !present.iter().any(|found| found.cidr == ip.address) {
                return Err(Error::internal(format!(
                    "Failed to match addr {} on interface {}",
                    ip.address, link.name
                )));
            }
        }
        Ok(())
    }
}

/// Both sides of an attachment: the node and the container.
#[derive(Debug)]
pub struct Sides {
    /// A netlink socket on the node.
    pub node: Netlink,
    /// The container.
    pub sandbox: Sandbox,
}

impl Sides {
    /// Opens both.
    ///
    /// # Errors
    /// Code 8 when `netns` is missing or not a namespace, 999 when a netlink socket cannot
    /// be created.
    pub fn open(netns: &str) -> Result<Self> {
        Self::of(Sandbox::open(netns)?)
    }

    /// Opens the node's side of `sandbox`.
    ///
    /// # Errors
    /// Code 999 when a netlink socket cannot be created.
    pub fn of(sandbox: Sandbox) -> Result<Self> {
        let node = Netlink::open()?;
        Ok(Self { node, sandbox })
    }

    /// The netlink socket in the container, or the one on the node.
    pub fn socket(&mut self, in_container: bool) -> &mut Netlink {
        if in_container {
            &mut self.sandbox.netlink
        } else {
            &mut self.node
        }
    }
}

/// Makes sure that the interface can have IPv6 addresses.
fn require_ipv6(link: &Link) -> Result<()> {
    let (name, mtu) = (&link.name, link.mtu);
    if mtu < LEAST_IPV6_MTU {
        return Err(Error::config(format!(
            "IPv6 needs an MTU of {LEAST_IPV6_MTU} bytes, and {name:?} has {mtu}"
        )));
    }
    match Path::new(IPV6_PARAMETERS).try_exists() {
        Ok(false) => Err(Error::config(format!(
            "the kernel of this node has no IPv6, and {name:?} is to have an IPv6 address"
        ))),
        _ => Ok(()),
    }
}

/// Prevents that neighbours configure the interface: any of them can send redirects, and
/// router advertisements, which add addresses and a default route. Best effort, because
/// `/proc/sys` may be read-only, and a kernel without IPv6 does not have these parameters.
/// To be called inside the namespace, before the link is up.
///
/// The kernel accepts redirects of IPv4 on an interface if its own parameter or that of the
/// namespace (`all`) allows them, so both are set. The other interfaces keep their own
/// parameters.
fn restrict_neighbours(ifname: &str, options: &Options) {
    let accept_ra = if options.accept_ra { "1" } else { "0" };
    let accept_dad = match options.dad {
        Dad::Off => "0",
        Dad::On => "1",
    };
    let mut refused = Vec::new();
    let mut set = |name: String, value: &str| match write_sysctl(&name, value) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            refused.push(format!("{name}: {cause}"));
        }
        _ => {}
    };
    for (parameter, value) in [
        ("accept_ra", accept_ra),
        ("autoconf", accept_ra),
        ("accept_redirects", "0"),
        ("accept_dad", accept_dad),
        ("ndisc_notify", "1"),
    ] {
        set(format!("net/ipv6/conf/{ifname}/{parameter}"), value);
    }
    set("net/ipv4/conf/all/accept_redirects".to_owned(), "0");
    if let Some(first) = refused.first() {
        say!("neighbours may configure {ifname:?}: could not set {first}");
    }
}

/// Enables IPv6 for the interface, which also keeps its addresses when it is set down. To be
/// called inside the namespace of a kernel with IPv6.
fn enable_ipv6(ifname: &str) -> Result<()> {
    for interface in ["lo", ifname] {
        let name = format!("net/ipv6/conf/{interface}/disable_ipv6");
        if read_sysctl(&name).is_ok_and(|value| value != "0") {
            write_sysctl(&name, "0").map_err(|cause| {
                let msg = format!("failed to enable IPv6 for interface {interface:?}");
                Error::internal(msg).because(&cause)
            })?;
        }
    }
    let name = format!("net/ipv6/conf/{ifname}/keep_addr_on_down");
    write_sysctl(&name, "1")
        .map_err(|cause| Error::internal(format!("failed to set {name}")).because(&cause))
}

/// The part of a result that is about the interface `ifname` in the namespace `sandbox`. A
/// result does not say which of several interfaces a route is for; the gateway of the route
/// decides.
pub(super) fn own_part(result: &AddResult, ifname: &str, sandbox: &str) -> AddResult {
    let index = result.find_interface(ifname, sandbox);
    let ips: Vec<IpConfig> = match index {
        Some(index) => result.ips_of(index).cloned().collect(),
        None => Vec::new(),
    };
    let belongs_here = |route: &&Route| match route.gw.filter(is_router) {
        Some(gw) => ips
            .iter()
            .any(|ip| ip.address.contains(gw) || ip.gateway == Some(gw)),
        None => ips
            .iter()
            .any(|ip| ip.address.is_ipv4() == route.dst.is_ipv4()),
    };
    let routes = result.routes.iter().filter(belongs_here).cloned().collect();
    AddResult {
        ips,
        routes,
        ..AddResult::default()
    }
}

/// Makes sure that the kernel has every route through `link`. A chained plugin may have
/// moved a route to another table, so the table is compared only if the route names one.
pub(super) fn require_routes(
    netlink: &mut Netlink,
    link: &Link,
    expected: &[Route],
    ips: &[IpConfig],
) -> Result<()> {
    if expected.is_empty() {
        return Ok(());
    }
    let present = netlink.routes()?;
    for route in expected {
        let gateway = route.next_hop(ips);
        if !present
            .iter()
            .any(|found| is_route(found, route, gateway, link.index))
        {
            let via = gateway.map_or(String::new(), |gateway| format!(" via {gateway}"));
            return Err(Error::internal(format!(
                "Expected Route {}{via} not found in routing table",
                route.dst
            )));
        }
    }
    Ok(())
}

/// Makes sure that duplicate address detection has failed for no address.
fn require_no_duplicate(link: &Link, present: &[KernelAddress]) -> Result<()> {
    let failed = present.iter().find(|a| a.state == AddressState::DadFailed);
    match failed {
        None => Ok(()),
        Some(address) => Err(Error::internal(format!(
            "address {} of {:?} is in use by another node",
            address.cidr, link.name
        ))
        .with_details("duplicate address detection has failed")),
    }
}

/// Makes sure that duplicate address detection has succeeded for every address.
pub(super) fn require_settled(link: &Link, present: &[KernelAddress]) -> Result<()> {
    require_no_duplicate(link, present)?;
    let tentative = present.iter().find(|a| a.state == AddressState::Tentative);
    match tentative {
        None => Ok(()),
        Some(address) => Err(Error::internal(format!(
            "address {} of {:?} is tentative",
            address.cidr, link.name
        ))),
    }
}

fn is_route(found: &KernelRoute, expected: &Route, gateway: Option<IpAddr>, link: u32) -> bool {
    let agrees = |expected: u32, found: u32| expected == 0 || expected == found;
    found.dst == expected.dst.network()
        && found.next_hops.contains(&(link, gateway))
        && expected.table.is_none_or(|table| table == found.table)
        && agrees(expected.priority, found.priority)
        && agrees(expected.mtu, found.mtu)
        && agrees(expected.advmss, found.advmss)
        && scope_agrees(expected, found)
}

/// Routes of IPv6 have no scope: the kernel ignores it in a request.
fn scope_agrees(expected: &Route, found: &KernelRoute) -> bool {
    let scope = expected.scope.filter(|_| expected.dst.is_ipv4());
    scope.is_none_or(|scope| scope == found.scope)
}
