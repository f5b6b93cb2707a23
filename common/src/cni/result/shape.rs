//! The format of a result in each version of the specification.

use std::net::IpAddr;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use super::{AddResult, Dns, Interface, IpConfig, Route};
use crate::address::{self, Cidr};
use crate::cni::version::CniVersion;
use crate::error::{Error, Result};

/// The shape of 0.3.0 and later, for reading.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ReadShape {
    interfaces: Vec<Interface>,
    ips: Vec<IpConfig>,
    routes: Vec<Route>,
    dns: Dns,
}

impl ReadShape {
    pub(super) fn into_result(self) -> AddResult {
        AddResult {
            interfaces: self.interfaces,
            ips: self.ips,
            routes: self.routes,
            dns: self.dns,
        }
    }
}

/// The shape of 0.1.0 and 0.2.0: one address per family, no interfaces.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Shape02 {
    cni_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<Ip02>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<Ip02>,
    dns: Dns,
}

#[derive(Serialize, Deserialize)]
struct Ip02 {
    ip: Cidr,
    #[serde(
        default,
        deserialize_with = "address::optional",
        skip_serializing_if = "Option::is_none"
    )]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
}

impl Shape02 {
    /// Converts a result, which has to have an address.
    ///
    /// # Errors
    /// Code 999 with the text of libcni when it has no address.
    pub(super) fn of_addresses(result: &AddResult, version: CniVersion) -> Result<Self> {
        let shape = Self::from_result(result, version);
        match shape.ip4.is_some() || shape.ip6.is_some() {
            true => Ok(shape),
            false => Err(Error::internal("cannot convert: no valid IP addresses")),
        }
    }

    fn from_result(result: &AddResult, version: CniVersion) -> Self {
        let family = |ipv4: bool| {
            let first = result.ips.iter().find(|ip| ip.address.is_ipv4() == ipv4)?;
            let routes = result.routes.iter().filter(|r| r.dst.is_ipv4() == ipv4);
            Some(Ip02 {
                ip: first.address,
                gateway: first.gateway,
                routes: routes.map(|r| Route::new(r.dst, r.gw)).collect(),
            })
        };
        Self {
            cni_version: version.to_string(),
            ip4: family(true),
            ip6: family(false),
            dns: result.dns.clone(),
        }
    }

    pub(super) fn into_result(self) -> AddResult {
        let mut result = AddResult {
            dns: self.dns,
            ..AddResult::default()
        };
        for family in [self.ip4, self.ip6].into_iter().flatten() {
            result.routes.extend(family.routes);
            result.ips.push(IpConfig {
                address: family.ip,
                gateway: family.gateway,
                interface: None,
            });
        }
        result
    }
}

/// The shape of 0.3.0 to 0.4.0, for printing.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shape03<'a> {
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<Interface03<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<Ip03>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    routes: &'a [Route],
    dns: &'a Dns,
}

#[derive(Serialize)]
struct Interface03<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    mac: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    sandbox: &'a str,
}

#[derive(Serialize)]
struct Ip03 {
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<usize>,
    address: Cidr,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
}

impl<'a> Shape03<'a> {
    pub(super) fn from_result(result: &'a AddResult, version: CniVersion) -> Self {
        let interfaces = result.interfaces.iter().map(|i| Interface03 {
            name: &i.name,
            mac: &i.mac,
            sandbox: &i.sandbox,
        });
        let ips = result.ips.iter().map(|ip| Ip03 {
            version: if ip.address.is_ipv4() { "4" } else { "6" },
            interface: ip.interface,
            address: ip.address,
            gateway: ip.gateway,
        });
        Self {
            cni_version: version.as_str(),
            interfaces: interfaces.collect(),
            ips: ips.collect(),
            routes: &result.routes,
            dns: &result.dns,
        }
    }
}

/// The shape of 1.0.0 and 1.1.0, for printing: keys sorted at every level.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shape10<'a> {
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<SortedDns<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    interfaces: &'a [Interface],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    ips: &'a [IpConfig],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<SortedRoute<'a>>,
}

impl<'a> Shape10<'a> {
    pub(super) fn from_result(result: &'a AddResult, version: CniVersion) -> Self {
        Self {
            cni_version: version.as_str(),
            dns: Some(SortedDns(&result.dns)).filter(|dns| !dns.0.is_empty()),
            interfaces: &result.interfaces,
            ips: &result.ips,
            routes: result.routes.iter().map(SortedRoute).collect(),
        }
    }
}

struct SortedDns<'a>(&'a Dns);

impl Serialize for SortedDns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let dns = self.0;
        let mut out = serializer.serialize_struct("Dns", 4)?;
        if !dns.domain.is_empty() {
            out.serialize_field("domain", &dns.domain)?;
        }
        for (key, list) in [
            ("nameservers", &dns.nameservers),
            ("options", &dns.options),
            ("search", &dns.search),
        ] {
            if !list.is_empty() {
                out.serialize_field(key, list)?;
            }
        }
        out.end()
    }
}

struct SortedRoute<'a>(&'a Route);

impl Serialize for SortedRoute<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let route = self.0;
        let mut out = serializer.serialize_struct("Route", 7)?;
        if route.advmss != 0 {
            out.serialize_field("advmss", &route.advmss)?;
        }
        out.serialize_field("dst", &route.dst)?;
        if let Some(gw) = &route.gw {
            out.serialize_field("gw", gw)?;
        }
        for (key, value) in [("mtu", route.mtu), ("priority", route.priority)] {
            if value != 0 {
                out.serialize_field(key, &value)?;
            }
        }
        if let Some(scope) = &route.scope {
            out.serialize_field("scope", scope)?;
        }
        if let Some(table) = &route.table {
            out.serialize_field("table", table)?;
        }
        out.end()
    }
}
