//! The parameters of a device below `/proc/sys/net`. When a device moves, the kernel resets
//! them to the defaults of the new namespace. On the node that would lose the restrictions
//! that its administrator has set.

use common::kernel::netlink::{Link, Parameters};
use common::kernel::netns::write_sysctl;
use common::say;

/// The parameters of IPv4 that are restored, with their position in the kernel's list, from
/// 0. Source: `linux/ip.h`; the numbers there begin with 1.
const IPV4: [(usize, &str); 19] = [
    (0, "forwarding"),
    (2, "proxy_arp"),
    (3, "accept_redirects"),
    (4, "secure_redirects"),
    (5, "send_redirects"),
    (6, "shared_media"),
    (7, "rp_filter"),
    (8, "accept_source_route"),
    (10, "log_martians"),
    (12, "arp_filter"),
    (17, "arp_announce"),
    (18, "arp_ignore"),
    (19, "promote_secondaries"),
    (20, "arp_accept"),
    (21, "arp_notify"),
    (22, "accept_local"),
    (23, "src_valid_mark"),
    (24, "proxy_arp_pvlan"),
    (25, "route_localnet"),
];
/// The parameters of IPv6 that are restored. Source: `DEVCONF_*` in `linux/ipv6.h`.
const IPV6: [(usize, &str); 16] = [
    (26, "disable_ipv6"),
    (0, "forwarding"),
    (1, "hop_limit"),
    (3, "accept_ra"),
    (4, "accept_redirects"),
    (5, "autoconf"),
    (6, "dad_transmits"),
    (10, "use_tempaddr"),
    (17, "accept_ra_defrtr"),
    (18, "accept_ra_pinfo"),
    (19, "accept_ra_rtr_pref"),
    (22, "proxy_ndp"),
    (24, "accept_source_route"),
    (27, "accept_dad"),
    (29, "ndisc_notify"),
    (42, "keep_addr_on_down"),
];

/// Whether the directory with this name has the parameters of all interfaces, and not those
/// of one.
pub fn are_of_all(name: &str) -> bool {
    matches!(name, "all" | "default")
}

/// Sets the parameters of `link`, which has the name `name` on the host, to those of
/// `wanted`, where they differ. It must be down. Errors are only logged, as for every other
/// property of a device.
pub fn restore(link: &Link, name: &str, wanted: &Parameters) {
    if are_of_all(name) {
        return;
    }
    let present = &link.parameters;
    let families = [
        ("ipv4", &IPV4[..], &present.ipv4, &wanted.ipv4),
        ("ipv6", &IPV6[..], &present.ipv6, &wanted.ipv6),
    ];
    for (family, parameters, present, wanted) in families {
        for (number, parameter) in parameters {
            let (Some(found), Some(wanted)) = (present.get(*number), wanted.get(*number)) else {
                continue;
            };
            if found != wanted {
                let path = format!("net/{family}/conf/{name}/{parameter}");
                if let Err(cause) = write_sysctl(&path, &wanted.to_string()) {
                    say!("failed to restore {path}: {cause}");
                }
            }
        }
    }
}
