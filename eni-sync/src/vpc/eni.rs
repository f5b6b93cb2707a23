//! Rules about ENIs and their addresses, as pure functions of what EC2 says: which ENIs may be
//! changed, which addresses can be assigned, and which need an entry in the ledger.

use std::net::{IpAddr, Ipv4Addr};

use common::address::{Cidr, number};
use common::attach::inventory::{Eni, NO_MANAGE_TAG};
use common::error::{Error, Result};

use crate::vpc::ec2::Description;

/// How many addresses at the start of every subnet are reserved by AWS, which also reserves the
/// last one. Source: Amazon VPC User Guide, "Subnet sizing".
const RESERVED_FIRST: u128 = 4;

/// Checks that the addresses of an ENI may be changed.
///
/// # Errors
/// Code 7 with the reason and what to do.
pub(crate) fn require_managed(eni: &Eni) -> Result<()> {
    require_managed_as(&eni.id, eni.is_primary(), eni.no_manage)
}

fn require_managed_as(id: &str, is_primary: bool, no_manage: bool) -> Result<()> {
    if is_primary {
        let msg = format!("{id} is the primary ENI of this node");
        let details = "its addresses are the VPC CNI's; pods need a secondary ENI";
        return Err(Error::config(msg).with_details(details));
    }
    if !no_manage {
        let msg = format!("{id} is not tagged {NO_MANAGE_TAG}=true");
        let details = "without the tag the VPC CNI gives its addresses to other pods";
        return Err(Error::config(msg).with_details(details));
    }
    Ok(())
}

/// Checks that addresses of an ENI of this node may be unassigned, by what EC2 says now.
///
/// # Errors
/// As for [`require_managed`].
pub(crate) fn require_releasable(eni: &Description) -> Result<()> {
    require_managed_as(&eni.id, eni.is_primary(), eni.no_manage)
}

/// Whether an ENI of any node is an ENI for pods: not primary, and tagged so that the VPC CNI
/// leaves it alone.
pub(crate) fn is_for_pods(eni: &Description) -> bool {
    eni.no_manage && !eni.is_primary()
}

/// Whether an address needs no registration: it is a primary address of the ENI or in a prefix
/// that is delegated to it.
pub(crate) fn is_registered(eni: &Eni, address: IpAddr) -> bool {
    eni.primary_addresses.contains(&address)
        || eni.prefixes.iter().any(|prefix| prefix.contains(address))
}

/// The addresses that need an entry in the ledger: [`needs_entry`].
pub(crate) fn needing_entries(eni: &Eni, addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut needing = addresses.to_vec();
    needing.retain(|address| needs_entry(eni, *address));
    needing
}

/// Checks that all of these addresses of one attachment can be assigned to the ENI.
///
/// # Errors
/// Those of [`require_managed`], and of [`require_assignable`] for the first address that
/// fails.
pub(crate) fn require_all(eni: &Eni, addresses: &[IpAddr]) -> Result<()> {
    require_managed(eni)?;
    addresses
        .iter()
        .try_for_each(|address| require_assignable(eni, *address))
}

/// Whether an address needs an entry in the ledger. A primary address does not, nor does an
/// address in a prefix of an ENI that `eni-sync` does not manage.
pub(crate) fn needs_entry(eni: &Eni, address: IpAddr) -> bool {
    match require_managed(eni).is_ok() {
        true => !eni.primary_addresses.contains(&address),
        false => !is_registered(eni, address),
    }
}

/// Checks that AWS can assign an address to an ENI.
///
/// # Errors
/// Code 7 naming the address, the ENI and its subnet.
pub(crate) fn require_assignable(eni: &Eni, address: IpAddr) -> Result<()> {
    let subnet = eni.subnet_cidrs.iter().find(|cidr| cidr.contains(address));
    let Some(subnet) = subnet else {
        let cidrs: Vec<String> = eni.subnet_cidrs.iter().map(Cidr::to_string).collect();
        let msg = format!("{address} is not in the subnet of {}", eni.id);
        let details = format!("{} has {}", eni.subnet_id, cidrs.join(", "));
        return Err(Error::config(msg).with_details(details));
    };
    if is_reserved(*subnet, address) {
        let msg = format!("{address} is reserved by AWS");
        let details = format!("the first four addresses and the last one of {subnet} are");
        return Err(Error::config(msg).with_details(details));
    }
    Ok(())
}

fn is_reserved(subnet: Cidr, address: IpAddr) -> bool {
    let offset = number(address).wrapping_sub(number(subnet.network().address()));
    offset < RESERVED_FIRST || address == subnet.last()
}

/// Whether the VPC routes an address: link-local and loopback addresses work without it.
pub(crate) fn is_routed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_link_local() || v4.is_loopback() || v4 == Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(v6) => !(v6.is_unicast_link_local() || v6.is_loopback()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn eni() -> Eni {
        Eni {
            id: "eni-1".into(),
            mac: "02:00:00:00:00:01".into(),
            interface: "ens6".into(),
            network_card_index: 0,
            device_index: 1,
            attachment_id: "eni-attach-1".into(),
            attach_time: 1,
            may_be_former: false,
            interface_index: 3,
            subnet_id: "subnet-1".into(),
            subnet_cidrs: ["10.0.4.0/24", "2001:db8:4::/64"]
                .map(|text| text.parse().unwrap())
                .into(),
            vpc_id: "vpc-1".into(),
            no_manage: true,
            network: String::new(),
            tags: std::collections::BTreeMap::new(),
            description: String::new(),
            requester_id: String::new(),
            requester_managed: false,
            security_groups: vec!["sg-1".into()],
            primary_addresses: vec![IpAddr::from([10, 0, 4, 10])],
            prefixes: vec!["10.0.4.128/28".parse().unwrap()],
            ipv4_limit: 10,
            ipv6_limit: 10,
        }
    }

    #[test]
    fn the_primary_eni_and_one_without_the_tag_are_left_alone() {
        require_managed(&eni()).unwrap();
        let primary = Eni {
            device_index: 0,
            ..eni()
        };
        let error = require_managed(&primary).unwrap_err();
        assert_eq!(error.msg, "eni-1 is the primary ENI of this node");
        let on_another_card = Eni {
            network_card_index: 1,
            ..primary.clone()
        };
        require_managed(&on_another_card).unwrap();
        let untagged = Eni {
            no_manage: false,
            ..eni()
        };
        let error = require_managed(&untagged).unwrap_err();
        assert_eq!(
            error.msg,
            "eni-1 is not tagged node.k8s.amazonaws.com/no_manage=true"
        );
    }

    #[test]
    fn an_enis_own_addresses_and_prefixes_need_no_registration() {
        for (address, expected) in [
            ("10.0.4.10", true),
            ("10.0.4.128", true),
            ("10.0.4.143", true),
            ("10.0.4.144", false),
            ("10.0.4.70", false),
        ] {
            let found = is_registered(&eni(), address.parse().unwrap());
            assert_eq!(found, expected, "{address}");
        }
    }

    #[test]
    fn addresses_that_aws_reserves_and_those_of_other_subnets_cannot_be_assigned() {
        let check = |text: &str| require_assignable(&eni(), text.parse().unwrap());
        for good in ["10.0.4.4", "10.0.4.254", "2001:db8:4::4"] {
            check(good).unwrap();
        }
        for reserved in [
            "10.0.4.0",
            "10.0.4.3",
            "10.0.4.255",
            "2001:db8:4::",
            "2001:db8:4::3",
            "2001:db8:4:0:ffff:ffff:ffff:ffff",
        ] {
            let error = check(reserved).unwrap_err();
            assert_eq!(error.msg, format!("{reserved} is reserved by AWS"));
        }
        let error = check("10.0.5.70").unwrap_err();
        assert_eq!(
            error.to_string(),
            "10.0.5.70 is not in the subnet of eni-1: subnet-1 has 10.0.4.0/24, 2001:db8:4::/64"
        );
    }

    #[test]
    fn the_vpc_has_nothing_to_do_with_link_local_addresses() {
        for (address, expected) in [
            ("10.0.4.70", true),
            ("2001:db8::1", true),
            ("169.254.1.1", false),
            ("127.0.0.1", false),
            ("fe80::1", false),
            ("::1", false),
        ] {
            assert_eq!(is_routed(address.parse().unwrap()), expected, "{address}");
        }
    }
}
