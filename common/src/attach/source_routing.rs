//! Source routing: packets whose source is an address of the attachment's interface leave
//! through that interface, independent of the container's other routes. Each attachment has
//! its own routing table, and for each address a rule that leads there. The kernel removes
//! routes together with the link, but not rules: DEL removes them by the attachment's
//! record. `rp_filter` need not be changed: in strict mode the kernel uses the same rules
//! for the reverse path.

use std::net::IpAddr;

use serde_json::Value;

use super::route;
use super::sandbox::{self, Sandbox};
use crate::address::Cidr;
use crate::attach::inventory::Inventory;
use crate::cni::config::Document;
use crate::cni::lenient::find;
use crate::cni::result::{AddResult, IpConfig, Route, SCOPE_LINK};
use crate::error::{Error, Result};
use crate::kernel::netlink::{Change, Link, Netlink, SourceRule};
use crate::records::Policy;

/// The configuration's key.
const KEY: &str = "sourceRouting";
/// The first table to try, as in the Go plugin `sbr`.
const FIRST_TABLE: u32 = 100;
/// The kernel's own tables `default`, `main` and `local`.
const KERNEL_TABLES: std::ops::RangeInclusive<u32> = 253..=255;
/// The number that the kernel shows in place of a table's number above 255
/// (`RT_TABLE_COMPAT`).
const TABLE_COMPAT: u32 = 252;
/// The kind of the interface that a chained `vrf` makes, which moves the routes of its
/// ports to its own table.
const VRF: &str = "vrf";
/// The last priority before those of the kernel's rules for the tables `main` and
/// `default`.
const LAST_PRIORITY: u32 = 32765;

/// `sourceRouting` as configured: `true`, or an object with either key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceRouting {
    /// The table; if not given, the first free one from 100 upwards.
    pub table: Option<u32>,
    /// The priority of the rules; if not given, the kernel chooses it.
    pub priority: Option<u32>,
}

impl SourceRouting {
    /// The section of a configuration; `None` when the key is missing or `false`.
    ///
    /// # Errors
    /// Code 7 with the key and the value.
    pub fn from_document(document: &Document) -> Result<Option<Self>> {
        let (table, priority) = match document.get(KEY) {
            None | Some(Value::Bool(false)) => return Ok(None),
            Some(Value::Bool(true)) => (None, None),
            Some(Value::Object(keys)) => (find(keys, "table"), find(keys, "priority")),
            Some(other) => {
                let rule = r#"it is true, false or an object with "table" and "priority""#;
                return Err(invalid(KEY, other, rule));
            }
        };
        let is_table = |number: u32| number != 0 && !KERNEL_TABLES.contains(&number);
        let is_priority = |number: u32| (1..=LAST_PRIORITY).contains(&number);
        let table_rule = "a table is a number from 1 to 4294967295, and not 253 to 255";
        let priority_rule = "a priority is a number from 1 to 32765";
        Ok(Some(Self {
            table: number("table", table, is_table, table_rule)?,
            priority: number("priority", priority, is_priority, priority_rule)?,
        }))
    }

    /// The policy of an attachment that is about to be made, with a table that has no route
    /// and that no rule uses.
    ///
    /// # Errors
    /// Code 999 naming the configured table when it is in use.
    pub fn plan(self, sandbox: &mut Sandbox) -> Result<Policy> {
        let mut used = sandbox.netlink.route_tables()?;
        used.extend(sandbox.netlink.rules()?.tables);
        let table = match self.table {
            Some(table) if used.contains(&table) => {
                return Err(Error::internal(format!(
                    "{KEY}: table {table} is in use in netns {:?}",
                    sandbox.netns.path()
                ))
                .with_details("it has routes, or a rule looks into it"));
            }
            Some(table) => table,
            None => {
                let is_free = |table: &u32| {
                    let reserved = KERNEL_TABLES.contains(table) || *table == TABLE_COMPAT;
                    !reserved && !used.contains(table)
                };
                let free = (FIRST_TABLE..=u32::MAX).find(is_free);
                free.ok_or_else(|| Error::internal(format!("{KEY}: no routing table is free")))?
            }
        };
        Ok(Policy {
            table,
            priority: self.priority,
            sources: Vec::new(),
        })
    }

    /// Compares an attachment without a record with the kernel. Its table is the one of the
    /// rule for the first address.
    ///
    /// # Errors
    /// As for [`Policy::verify`].
    pub fn verify(self, netlink: &mut Netlink, link: &Link, own: &AddResult) -> Result<()> {
        let mut policy = Policy {
            table: 0,
            priority: self.priority,
            sources: own.ips.iter().map(|ip| ip.address.address()).collect(),
        };
        let Some(first) = policy.sources.first().copied() else {
            return Ok(());
        };
        let rules = netlink.rules()?.from_sources;
        let is_table = |rule: &SourceRule| self.table.is_none_or(|table| table == rule.table);
        let mut found = rules.iter().filter(|r| r.source == first && is_table(r));
        let rule = found
            .next()
            .ok_or_else(|| missing_rule(first, self.table))?;
        policy.table = rule.table;
        policy.verify(netlink, link, own)
    }
}

impl Policy {
    /// Makes the addresses of `own` the sources of the policy, and moves its default routes
    /// to the attachment's table.
    ///
    /// In the main table such a default route would replace that of the container's first
    /// interface. The result names the table, so that CHECK and every reader know where the
    /// route is. All other routes are in the main table too, so that every address of the
    /// container can use them.
    ///
    /// # Errors
    /// Code 7 when there is no default route for the family of an address: neither the
    /// result nor the node's inventory of ENIs has a gateway, and `link` needs one.
    pub fn claim(&mut self, link: &Link, own: &mut AddResult) -> Result<()> {
        complete_gateways(link, own)?;
        self.sources = own.ips.iter().map(|ip| ip.address.address()).collect();
        for route in &mut own.routes {
            if route.dst.is_default() && route.table.is_none() {
                route.table = Some(self.table);
            }
        }
        Ok(())
    }

    /// The changes that fill the table and add the rules, once `link` is up and has its
    /// addresses. The default routes that [`Policy::claim`] has moved are not among them.
    pub fn changes(&self, link: &Link, own: &AddResult) -> Vec<Change> {
        let routes = self.routes(own);
        let missing = routes.iter().filter(|route| !own.routes.contains(route));
        let add_route = |route: &Route| route::add(link.index, route, own);
        let add_rule = |source: &IpAddr| {
            Change::add_rule(&SourceRule {
                source: *source,
                table: self.table,
                priority: self.priority,
            })
        };
        let rules = self.sources.iter().map(add_rule);
        missing.map(add_route).chain(rules).collect()
    }

    /// Compares the table and the rules with the part of ADD's result that is about `link`.
    ///
    /// # Errors
    /// Code 999 naming the rule or route that is missing.
    pub fn verify(&self, netlink: &mut Netlink, link: &Link, own: &AddResult) -> Result<()> {
        let rules = netlink.rules()?;
        for source in &self.sources {
            let is_expected = |rule: &SourceRule| {
                let priority_agrees = self.priority.is_none() || rule.priority == self.priority;
                rule.source == *source && rule.table == self.table && priority_agrees
            };
            if !rules.from_sources.iter().any(is_expected) {
                return Err(missing_rule(*source, Some(self.table)));
            }
        }
        sandbox::require_routes(netlink, link, &self.routes(own), &own.ips).map_err(|error| {
            match error.details.as_str() {
                "" if link.port_kind == VRF => error.with_details(format!(
                    "{:?} is in a VRF, which has emptied table {}: {KEY} does not work in a VRF",
                    link.name, self.table
                )),
                "" => error.with_details(format!("{KEY} uses table {}", self.table)),
                _ => error,
            }
        })
    }

    /// Whether there may be rules in the kernel.
    pub fn has_rules(&self) -> bool {
        !self.sources.is_empty()
    }

    /// Removes the rules. The kernel has removed the routes together with the link.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer.
    pub fn withdraw(&self, netlink: &mut Netlink) -> Result<()> {
        let is_ours =
            |rule: &&SourceRule| rule.table == self.table && self.sources.contains(&rule.source);
        let rules = netlink.rules()?.from_sources;
        for rule in rules.iter().filter(is_ours) {
            netlink.delete_rule(rule)?;
        }
        Ok(())
    }

    /// The routes of the table: each connected network, the configured routes except those
    /// that name another table, and for each family with a gateway but without a default
    /// route, one through its first gateway.
    fn routes(&self, own: &AddResult) -> Vec<Route> {
        let belongs_here = |r: &&Route| r.table.is_none_or(|table| table == self.table);
        let configured = own.routes.iter().filter(belongs_here);
        let configured: Vec<Route> = configured.map(|r| self.placed(r.clone())).collect();
        // The kernel refuses a second route with the same values of these.
        let key = |r: &Route| (r.dst.network(), r.next_hop(&own.ips), r.priority);
        let mut routes: Vec<Route> = Vec::new();
        for ip in &own.ips {
            let connected = self.placed(Route {
                scope: Some(SCOPE_LINK),
                ..Route::new(ip.address.network(), None)
            });
            let mut others = routes.iter().chain(&configured);
            if !others.any(|other| key(other) == key(&connected)) {
                routes.push(connected);
            }
        }
        routes.extend(configured);
        for gateway in own.ips.iter().filter_map(IpConfig::router) {
            let any = Cidr::any(gateway);
            if !routes.iter().any(|route| route.dst == any) {
                routes.push(self.placed(Route::new(any, Some(gateway))));
            }
        }
        routes
    }

    fn placed(&self, mut route: Route) -> Route {
        route.table = Some(self.table);
        route
    }
}

/// Makes sure that each family with an address has a default route: through a gateway, or
/// through the link itself if it does not resolve neighbours, such as ipvlan in mode l3.
fn complete_gateways(link: &Link, own: &mut AddResult) -> Result<()> {
    for position in 0..own.ips.len() {
        let address = own.ips[position].address;
        if has_way_out(address, own) {
            continue;
        }
        if !link.has_neighbours() {
            own.routes.push(Route {
                scope: Some(SCOPE_LINK),
                ..Route::new(Cidr::any(address.address()), None)
            });
        } else {
            own.ips[position].gateway = Some(router(link, address)?);
        }
    }
    Ok(())
}

/// Whether the result has a default route or a gateway for the family of `address`.
fn has_way_out(address: Cidr, own: &AddResult) -> bool {
    let is_way = |route: &Route| {
        let is_default = route.dst == Cidr::any(address.address()) && route.table.is_none();
        is_default && (route.gw.is_some() || route.scope.is_some_and(|s| s >= SCOPE_LINK))
    };
    let mut gateways = own.ips.iter().filter_map(|ip| ip.gateway);
    own.routes.iter().any(is_way) || gateways.any(|gw| gw.is_ipv4() == address.is_ipv4())
}

/// The router of the ENI's subnet that `address` is in: AWS reserves the second address of
/// a subnet for it.
fn router(link: &Link, address: Cidr) -> Result<IpAddr> {
    let unknown = || {
        let msg = format!("{KEY}: address {address} has no gateway");
        Error::config(msg).with_details("name one in the ipam section, or a default route with one")
    };
    let inventory = Inventory::read()?.unwrap_or_default();
    let subnets = inventory
        .by_mac(link.hardware_mac())
        .map(|eni| &eni.subnet_cidrs);
    let mut subnets = subnets.into_iter().flatten();
    let subnet = subnets.find(|subnet| subnet.contains(address.address()));
    match subnet.map(|subnet| subnet.network().address()) {
        Some(IpAddr::V4(network)) => {
            let router = u32::from(network).checked_add(1).ok_or_else(unknown)?;
            Ok(IpAddr::V4(router.into()))
        }
        _ => Err(unknown()),
    }
}

fn missing_rule(source: IpAddr, table: Option<u32>) -> Error {
    let table = table.map(|table| format!(" lookup {table}"));
    let table = table.unwrap_or_default();
    Error::internal(format!("Expected rule 'from {source}{table}' not found"))
}

fn number(
    key: &str,
    value: Option<&Value>,
    is_valid: impl Fn(u32) -> bool,
    rule: &str,
) -> Result<Option<u32>> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    match number.filter(|number| is_valid(*number)) {
        Some(number) => Ok(Some(number)),
        None => Err(invalid(&format!("{KEY}.{key}"), value, rule)),
    }
}

fn invalid(key: &str, value: &Value, rule: &str) -> Error {
    Error::config(format!("invalid {key} {value}")).with_details(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Result<Option<SourceRouting>> {
        let text = format!("{{\"sourceRouting\":{value}}}");
        SourceRouting::from_document(&Document::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn the_key_is_a_boolean_or_an_object() {
        let with = |table, priority| Some(SourceRouting { table, priority });
        for unset in ["false", "null"] {
            assert_eq!(parse(unset).unwrap(), None);
        }
        for chosen in ["true", "{}", r#"{"table":null}"#] {
            assert_eq!(parse(chosen).unwrap(), with(None, None), "{chosen}");
        }
        let given = parse(r#"{"Table":4294967295,"priority":32765}"#);
        assert_eq!(given.unwrap(), with(Some(u32::MAX), Some(32765)));
    }

    #[test]
    fn a_wrong_value_is_named_with_its_key() {
        for (value, msg) in [
            ("1", "invalid sourceRouting 1"),
            ("\"true\"", "invalid sourceRouting \"true\""),
            ("[]", "invalid sourceRouting []"),
            (r#"{"table":0}"#, "invalid sourceRouting.table 0"),
            (r#"{"table":254}"#, "invalid sourceRouting.table 254"),
            (r#"{"table":-1}"#, "invalid sourceRouting.table -1"),
            (r#"{"table":"a"}"#, "invalid sourceRouting.table \"a\""),
            (
                r#"{"table":4294967296}"#,
                "invalid sourceRouting.table 4294967296",
            ),
            (r#"{"priority":0}"#, "invalid sourceRouting.priority 0"),
            (
                r#"{"priority":32766}"#,
                "invalid sourceRouting.priority 32766",
            ),
        ] {
            let error = parse(value).unwrap_err();
            assert_eq!((error.code.0, error.msg.as_str()), (7, msg));
        }
    }

    fn policy() -> Policy {
        Policy {
            table: 100,
            priority: None,
            sources: Vec::new(),
        }
    }

    fn ip(address: &str, gateway: Option<&str>) -> IpConfig {
        IpConfig {
            address: address.parse().unwrap(),
            gateway: gateway.map(|gw| gw.parse().unwrap()),
            interface: None,
        }
    }

    fn route(dst: &str) -> Route {
        Route::new(dst.parse().unwrap(), None)
    }

    #[test]
    fn default_routes_without_a_table_are_reported_in_the_table_of_the_attachment() {
        let elsewhere = Route {
            table: Some(7),
            ..route("0.0.0.0/0")
        };
        let mut own = AddResult {
            ips: vec![ip("10.0.0.5/24", Some("10.0.0.1"))],
            routes: vec![route("0.0.0.0/0"), elsewhere, route("10.1.0.0/16")],
            ..AddResult::default()
        };
        let mut policy = policy();
        policy.claim(&Link::default(), &mut own).unwrap();
        let tables: Vec<_> = own.routes.iter().map(|r| r.table).collect();
        assert_eq!(tables, [Some(100), Some(7), None]);
        assert_eq!(policy.sources, [own.ips[0].address.address()]);
    }

    #[test]
    fn the_table_has_every_network_and_one_default_per_family_with_a_gateway() {
        let own = AddResult {
            ips: vec![
                ip("10.0.0.5/24", Some("10.0.0.1")),
                ip("10.0.0.6/24", Some("10.0.0.2")),
                ip("2001:db8::5/64", None),
            ],
            routes: vec![route("10.1.0.0/16"), route("::/1")],
            ..AddResult::default()
        };
        let routes = policy().routes(&own);
        let found: Vec<_> = routes
            .iter()
            .map(|r| (r.dst.to_string(), r.gw.map(|gw| gw.to_string())))
            .collect();
        let expected = [
            ("10.0.0.0/24", None),
            ("2001:db8::/64", None),
            ("10.1.0.0/16", None),
            ("::/1", None),
            ("0.0.0.0/0", Some("10.0.0.1")),
        ];
        let expected = expected.map(|(dst, gw)| (dst.to_owned(), gw.map(str::to_owned)));
        assert_eq!(found, expected);
        assert!(routes.iter().all(|route| route.table == Some(100)));
    }
}
