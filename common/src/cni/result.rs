//! The result of ADD, built in the newest version and printed in, or read from,
//! the shape of any version.

mod shape;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::shape::{ReadShape, Shape02, Shape03, Shape10};
use crate::address::{self, Cidr};
use crate::cni::lenient::read_value;
use crate::cni::version::CniVersion;
use crate::error::{Error, ErrorCode, Result};
use crate::json::to_text;

/// The kernel's scope of a route whose destination is on the link (`RT_SCOPE_LINK`).
pub const SCOPE_LINK: u8 = 253;

/// The result of ADD. Source: CNI specification, section 5, "Add Success".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddResult {
    /// The interfaces of the attachment.
    pub interfaces: Vec<Interface>,
    /// The addresses on them.
    pub ips: Vec<IpConfig>,
    /// The routes through them.
    pub routes: Vec<Route>,
    /// Name servers for the container.
    pub dns: Dns,
}

/// A network interface. Fields are in alphabetical order, because 1.x prints them so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Interface {
    /// The hardware address, in lower case with colons.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// The maximum transmission unit in bytes; 0 when not known.
    #[serde(skip_serializing_if = "is_zero")]
    pub mtu: u32,
    /// The interface's name.
    pub name: String,
    /// The PCI address of the device behind the interface.
    #[serde(rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
    /// The path of the container's network namespace; empty for a host interface.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// The path of a vhost-user socket.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
}

/// An address. Fields are in alphabetical order, because 1.x prints them so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// The address with its prefix length.
    pub address: Cidr,
    /// The network's gateway.
    #[serde(
        default,
        deserialize_with = "address::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub gateway: Option<IpAddr>,
    /// The index into `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route. Field order is libcni's for versions before 1.0.0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The destination; host bits are kept as given.
    pub dst: Cidr,
    /// The next hop; without it the family's first gateway is used.
    #[serde(
        default,
        deserialize_with = "address::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub gw: Option<IpAddr>,
    /// The path's maximum transmission unit in bytes; 0 means not set.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mtu: u32,
    /// The TCP maximal segment size to advertise, in bytes; 0 means not set.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub advmss: u32,
    /// The metric; lower is preferred, 0 means not set.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: u32,
    /// The routing table; the main table when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// The scope: 0 universe, 253 link, 254 host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

/// Name resolution. Field order is libcni's for every version: it is alphabetical
/// but for `nameservers`, which is why 1.x prints a sorted copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Addresses of name servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search domains.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This configuration, with every part it does not set taken from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        fn first<T>(own: Vec<T>, other: Vec<T>) -> Vec<T> {
            if own.is_empty() { other } else { own }
        }
        Self {
            nameservers: first(self.nameservers, other.nameservers),
            domain: if self.domain.is_empty() {
                other.domain
            } else {
                self.domain
            },
            search: first(self.search, other.search),
            options: first(self.options, other.options),
        }
    }
}

impl AddResult {
    /// Turns the result of an IPAM plugin into the result of an attachment: its addresses
    /// are on `interface`, and each part of `dns` that is set replaces the plugin's. A
    /// default route without a gateway gets the one of its family, so that a reader of
    /// the result does not need to know that rule.
    #[must_use]
    pub fn attached(mut self, interface: Interface, dns: Dns) -> Self {
        self.interfaces = vec![interface];
        for ip in &mut self.ips {
            ip.interface = Some(0);
        }
        for route in &mut self.routes {
            if route.dst.is_default() && route.gw.is_none() {
                route.gw = route.next_hop(&self.ips);
            }
        }
        self.dns = dns.or(self.dns);
        self
    }

    /// Appends the result of the next plugin in a chain. The interfaces, addresses and
    /// routes of this result stay, and the indices of `own` are shifted by their number.
    /// Each part of the DNS settings of `own` that is set replaces the one of this
    /// result.
    #[must_use]
    pub fn append(mut self, mut own: Self) -> Self {
        let first = self.interfaces.len();
        for ip in &mut own.ips {
            ip.interface = ip.interface.map(|index| index + first);
        }
        self.interfaces.append(&mut own.interfaces);
        self.ips.append(&mut own.ips);
        self.routes.append(&mut own.routes);
        self.dns = own.dns.or(self.dns);
        self
    }

    /// The addresses that belong to the interface with this index; an address
    /// without an index belongs to the first.
    pub fn ips_of(&self, index: usize) -> impl Iterator<Item = &IpConfig> {
        self.ips
            .iter()
            .filter(move |ip| ip.interface.unwrap_or(0) == index)
    }

    /// The index of the interface `name` inside the namespace `sandbox`.
    pub fn find_interface(&self, name: &str, sandbox: &str) -> Option<usize> {
        self.interfaces
            .iter()
            .position(|i| i.name == name && i.sandbox == sandbox)
    }

    /// The JSON document for stdout, in the format of `version`.
    ///
    /// # Errors
    /// Code 999 when the version is 0.1.0 or 0.2.0 and the result has no address, with
    /// the text of libcni.
    pub fn to_json(&self, version: CniVersion) -> Result<String> {
        match version {
            CniVersion::V0_1_0 | CniVersion::V0_2_0 => {
                Ok(to_text(&Shape02::of_addresses(self, version)?))
            }
            CniVersion::V0_3_0 | CniVersion::V0_3_1 | CniVersion::V0_4_0 => {
                Ok(to_text(&Shape03::from_result(self, version)))
            }
            CniVersion::V1_0_0 | CniVersion::V1_1_0 => {
                Ok(to_text(&Shape10::from_result(self, version)))
            }
        }
    }

    /// The result that a reader of this result's document in `version` gets: in 0.1.0 and
    /// 0.2.0 it has one address of each family and no interfaces.
    ///
    /// # Errors
    /// As for [`Self::to_json`].
    pub fn as_read(self, version: CniVersion) -> Result<Self> {
        if version > CniVersion::V0_2_0 {
            return Ok(self);
        }
        Ok(Shape02::of_addresses(&self, version)?.into_result())
    }

    /// Reads a result that another plugin printed. `version` is the version of the
    /// configuration, and of a document without `cniVersion`.
    ///
    /// # Errors
    /// Code 6 when the document is malformed or has the format of another version.
    pub fn from_value(value: &Value, version: CniVersion) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        #[derive(Default)]
        struct Versioned {
            cni_version: String,
        }
        let named: Versioned = read_value(value, "failed to read the result's version")?;
        let same_family = version
            .family()
            .iter()
            .any(|v| v.as_str() == named.cni_version);
        if !named.cni_version.is_empty() && !same_family {
            let family: Vec<&str> = version.family().iter().map(|v| v.as_str()).collect();
            return Err(Error::new(
                ErrorCode::DECODING,
                format!(
                    "result type supports [{}] but unmarshalled CNIVersion is {:?}",
                    family.join(" "),
                    named.cni_version
                ),
            ));
        }
        match version {
            CniVersion::V0_1_0 | CniVersion::V0_2_0 => {
                Ok(read_value::<Shape02>(value, "failed to read the result")?.into_result())
            }
            _ => Ok(read_value::<ReadShape>(value, "failed to read the result")?.into_result()),
        }
    }
}

impl IpConfig {
    /// The gateway, unless it is the unspecified address, which plugins such as
    /// route-override write where there is no gateway.
    pub fn router(&self) -> Option<IpAddr> {
        self.gateway.filter(is_router)
    }
}

/// Whether this is a real gateway, and not the unspecified address.
pub(crate) fn is_router(gateway: &IpAddr) -> bool {
    !gateway.is_unspecified()
}

impl AddResult {
    /// Whether `gateway` is on the link: in the network of an address, or the destination
    /// of a route without a gateway. A link-local gateway always is, because every
    /// interface with IPv6 has a link-local address.
    pub fn leads_to(&self, gateway: IpAddr) -> bool {
        let is_link_local = matches!(gateway, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let is_connected = |ip: &IpConfig| ip.address.contains(gateway);
        let is_direct =
            |route: &Route| route.dst.contains(gateway) && route.next_hop(&self.ips).is_none();
        is_link_local || self.ips.iter().any(is_connected) || self.routes.iter().any(is_direct)
    }
}

impl Route {
    /// The next hop: the route's own gateway, otherwise the first one of its family in
    /// `ips`. `None` when there is no gateway or the scope says that the destination is
    /// on the link.
    pub fn next_hop(&self, ips: &[IpConfig]) -> Option<IpAddr> {
        if self.gw.is_none() && self.scope.is_some_and(|scope| scope >= SCOPE_LINK) {
            return None;
        }
        let of_family = |gw: &IpAddr| gw.is_ipv4() == self.dst.is_ipv4();
        let next_hop = self
            .gw
            .or_else(|| ips.iter().filter_map(IpConfig::router).find(of_family));
        next_hop.filter(is_router)
    }

    /// A route to `dst` through `gw`, with nothing else set.
    pub fn new(dst: Cidr, gw: Option<IpAddr>) -> Self {
        Self {
            dst,
            gw,
            mtu: 0,
            advmss: 0,
            priority: 0,
            table: None,
            scope: None,
        }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> AddResult {
        AddResult {
            interfaces: vec![Interface {
                name: "net1".into(),
                mac: "02:00:00:00:00:01".into(),
                mtu: 9001,
                sandbox: "/run/netns/a&b".into(),
                ..Interface::default()
            }],
            ips: vec![
                IpConfig {
                    address: "10.0.4.70/24".parse().unwrap(),
                    gateway: Some("10.0.4.1".parse().unwrap()),
                    interface: Some(0),
                },
                IpConfig {
                    address: "2001:db8::5/64".parse().unwrap(),
                    gateway: None,
                    interface: Some(0),
                },
            ],
            routes: vec![Route {
                mtu: 1400,
                table: Some(77),
                scope: Some(0),
                ..Route::new(
                    "0.0.0.0/0".parse().unwrap(),
                    Some("10.0.4.1".parse().unwrap()),
                )
            }],
            dns: Dns::default(),
        }
    }

    #[test]
    fn the_unspecified_address_is_not_a_next_hop() {
        let ip = |gateway: &str| IpConfig {
            address: "10.0.4.70/24".parse().unwrap(),
            gateway: Some(gateway.parse().unwrap()),
            interface: None,
        };
        let dst: Cidr = "10.8.0.0/16".parse().unwrap();
        let none = Route::new(dst, None);
        let explicit = Route::new(dst, Some("0.0.0.0".parse().unwrap()));
        assert_eq!(none.next_hop(&[ip("0.0.0.0")]), None);
        assert_eq!(explicit.next_hop(&[ip("10.0.4.1")]), None);
        let next = none.next_hop(&[ip("0.0.0.0"), ip("10.0.4.1")]);
        assert_eq!(next, Some("10.0.4.1".parse().unwrap()));
    }

    fn compact(version: CniVersion) -> String {
        let text = sample().to_json(version).unwrap();
        serde_json::from_str::<Value>(&text).unwrap().to_string()
    }

    #[test]
    fn version_0_2_0_has_one_address_per_family_and_plain_routes() {
        assert_eq!(
            compact(CniVersion::V0_2_0),
            r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.4.70/24","gateway":"10.0.4.1","routes":[{"dst":"0.0.0.0/0","gw":"10.0.4.1"}]},"ip6":{"ip":"2001:db8::5/64"},"dns":{}}"#
        );
    }

    #[test]
    fn version_0_4_0_marks_the_family_and_drops_the_mtu_of_interfaces() {
        assert_eq!(
            compact(CniVersion::V0_4_0),
            r#"{"cniVersion":"0.4.0","interfaces":[{"name":"net1","mac":"02:00:00:00:00:01","sandbox":"/run/netns/a&b"}],"ips":[{"version":"4","interface":0,"address":"10.0.4.70/24","gateway":"10.0.4.1"},{"version":"6","interface":0,"address":"2001:db8::5/64"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.0.4.1","mtu":1400,"table":77,"scope":0}],"dns":{}}"#
        );
    }

    #[test]
    fn version_1_1_0_sorts_its_keys_and_omits_an_empty_dns() {
        assert_eq!(
            compact(CniVersion::V1_1_0),
            r#"{"cniVersion":"1.1.0","interfaces":[{"mac":"02:00:00:00:00:01","mtu":9001,"name":"net1","sandbox":"/run/netns/a&b"}],"ips":[{"address":"10.0.4.70/24","gateway":"10.0.4.1","interface":0},{"address":"2001:db8::5/64","interface":0}],"routes":[{"dst":"0.0.0.0/0","gw":"10.0.4.1","mtu":1400,"scope":0,"table":77}]}"#
        );
    }

    #[test]
    fn the_text_is_indented_and_escaped_as_libcni_does() {
        let text = sample().to_json(CniVersion::V1_0_0).unwrap();
        assert!(text.starts_with("{\n    \"cniVersion\": \"1.0.0\",\n"));
        assert!(text.contains("/run/netns/a\\u0026b"));
        assert!(text.ends_with('}'));
    }

    #[test]
    fn a_result_without_addresses_cannot_be_printed_in_0_2_0() {
        let error = AddResult::default()
            .to_json(CniVersion::V0_2_0)
            .unwrap_err();
        assert_eq!(error.msg, "cannot convert: no valid IP addresses");
    }

    #[test]
    fn a_printed_result_can_be_read_in_every_version() {
        for version in CniVersion::ALL {
            let printed: Value = serde_json::from_str(&sample().to_json(version).unwrap()).unwrap();
            let read = AddResult::from_value(&printed, version).unwrap();
            assert_eq!(read.ips.len(), 2, "{version}");
            assert_eq!(
                read.to_json(version).unwrap(),
                sample().to_json(version).unwrap()
            );
        }
    }

    #[test]
    fn a_result_of_another_shape_is_refused() {
        let value = serde_json::json!({"cniVersion": "0.2.0"});
        let error = AddResult::from_value(&value, CniVersion::V1_0_0).unwrap_err();
        assert_eq!(
            error.msg,
            "result type supports [1.0.0 1.1.0] but unmarshalled CNIVersion is \"0.2.0\""
        );
    }

    #[test]
    fn an_appended_result_keeps_the_earlier_one_and_shifts_its_own_indices() {
        let chained = sample().append(sample());
        let indices: Vec<_> = chained.ips.iter().map(|ip| ip.interface).collect();
        assert_eq!(indices, [Some(0), Some(0), Some(1), Some(1)]);
        assert_eq!((chained.interfaces.len(), chained.routes.len()), (2, 2));
    }

    #[test]
    fn dns_is_merged_part_by_part() {
        let own = Dns {
            domain: "a".into(),
            ..Dns::default()
        };
        let other = Dns {
            domain: "b".into(),
            search: vec!["s".into()],
            ..Dns::default()
        };
        let merged = own.or(other);
        assert_eq!((merged.domain.as_str(), merged.search.len()), ("a", 1));
    }
}
