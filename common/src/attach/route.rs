//! Converts routes of a result to the kernel's, and compares the two.

use crate::cni::result::{AddResult, IpConfig, Route};
use crate::kernel::netlink::{Change, KernelRoute, NewRoute, table_or_main};

/// The change that adds `route` through the link with this index, which has the addresses
/// and the other routes of `own`. A gateway that none of them leads to is declared to be
/// on the link (`onlink`), as for an address with the prefix length 32.
pub(super) fn add(index: u32, route: &Route, own: &AddResult) -> Change {
    let gateway = route.next_hop(&own.ips);
    let route = NewRoute {
        dst: route.dst.network(),
        gateway,
        is_gateway_on_link: gateway.is_some_and(|gateway| !own.leads_to(gateway)),
        table: route.table,
        priority: route.priority,
        mtu: route.mtu,
        advmss: route.advmss,
        scope: route.scope,
    };
    Change::add_route(index, &route)
}

/// Whether `found` is `route`, of a result with these addresses, or has it as one of its
/// next hops.
pub(super) fn is_listed(found: &KernelRoute, route: &Route, ips: &[IpConfig]) -> bool {
    let gateway = route.next_hop(ips);
    found.dst == route.dst.network()
        && (found.table, found.priority) == (table_or_main(route.table), route.priority)
        && found.next_hops.iter().any(|(_, own)| *own == gateway)
}
