//! The resources that the agent offers to the kubelet, and so to the scheduler: the addresses of
//! an ENI, or whole ENIs.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use common::address::Cidr;
use common::attach::inventory::Eni;
use common::files::file::LONGEST_SOCKET_PATH;
use serde::Deserialize;

use crate::vpc::ec2::Family;

/// The default directory of the sockets of the kubelet and of its device plugins.
pub(crate) const DEVICE_PLUGIN_PATH: &str = "/var/lib/kubelet/device-plugins";
/// The suffix of a new socket until it is renamed to its path.
const NEW: &str = ".new";

/// The longest name after the slash, and the longest domain before it, which Kubernetes
/// prefixes with `requests.` itself. Source: Kubernetes, `IsExtendedResourceName`.
const LONGEST_NAME: usize = 63;
const LONGEST_DOMAIN: usize = 253 - "requests.".len();
/// The suffix of domains that Kubernetes reserves for itself, with or without a dot before it.
/// Source: Kubernetes, `IsPrefixedNativeResource`.
const NATIVE: &str = "kubernetes.io";

/// A resource of the node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Resource {
    /// The name in a pod's limits, such as `eni-cni.io/user-plane`.
    pub(crate) name: String,
    /// The ENIs that it is of.
    pub(crate) eni: EniSelector,
    /// What one unit of it is.
    pub(crate) kind: Kind,
    /// The family of the addresses.
    #[serde(default = "ipv4")]
    pub(crate) family: Family,
}

/// What one unit of a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Room for one address on an ENI.
    Addresses,
    /// A whole ENI.
    Devices,
}

/// The properties by which ENIs are selected; an ENI must have all that are given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct EniSelector {
    /// Its id.
    id: Option<String>,
    /// Its subnet: the id, or one of its address ranges.
    subnet: Option<String>,
    /// Its tags.
    tag: BTreeMap<String, String>,
}

fn ipv4() -> Family {
    Family::V4
}

impl Resource {
    /// The name of its socket in the directory of the device plugins. A domain cannot have a
    /// `_`, so different resources have different sockets.
    pub(crate) fn socket_name(&self) -> String {
        format!("eni-sync-{}.sock", self.name.replace('/', "_"))
    }

    /// The name of the variable that tells a container which devices it has.
    pub(crate) fn variable(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let name: String = self.name.chars().map(plain).collect();
        format!("PCIDEVICE_{}", name.to_ascii_uppercase())
    }

    fn validate(&self, directory: &Path) -> Result<(), String> {
        if !is_extended_resource(&self.name) {
            return Err(format!(
                "{:?} is not the name of an extended resource, such as eni-cni.io/user-plane",
                self.name
            ));
        }
        let path = directory.join(self.socket_name() + NEW);
        if path.as_os_str().len() > LONGEST_SOCKET_PATH {
            return Err(format!(
                "resource {:?}: the path of its socket is longer than {LONGEST_SOCKET_PATH} bytes: {path:?}",
                self.name
            ));
        }
        let named = |why: String| format!("resource {:?}: {why}", self.name);
        self.eni.validate().map_err(named)
    }
}

impl EniSelector {
    /// Whether the selector selects an ENI.
    pub(crate) fn selects(&self, eni: &Eni) -> bool {
        let is_in = |subnet: &String| {
            let cidr = subnet.parse::<Cidr>().ok().map(|cidr| cidr.network());
            *subnet == eni.subnet_id || cidr.is_some_and(|cidr| eni.subnet_cidrs.contains(&cidr))
        };
        let has = |(key, value): (&String, &String)| eni.tags.get(key) == Some(value);
        self.id.as_ref().is_none_or(|id| *id == eni.id)
            && self.subnet.as_ref().is_none_or(is_in)
            && self.tag.iter().all(has)
    }

    fn validate(&self) -> Result<(), String> {
        let Self { id, subnet, tag } = self;
        if id.is_none() && subnet.is_none() && tag.is_empty() {
            return Err("eni needs id, subnet or tag".to_owned());
        }
        if let Some(id) = id.as_ref().filter(|id| !id.starts_with("eni-")) {
            return Err(format!("eni.id {id:?} is not the id of an ENI"));
        }
        let is_subnet = |text: &String| text.starts_with("subnet-") || text.parse::<Cidr>().is_ok();
        match subnet.as_ref().filter(|subnet| !is_subnet(subnet)) {
            Some(subnet) => Err(format!(
                "eni.subnet {subnet:?} is neither an id nor a range"
            )),
            None => Ok(()),
        }
    }
}

/// Checks that the kubelet can accept all of the resources.
///
/// # Errors
/// The resource that it cannot accept, and why.
pub(super) fn validate(resources: &[Resource], directory: &Path) -> Result<(), String> {
    if !directory.is_absolute() {
        return Err(format!("devicePluginPath {directory:?} is not absolute"));
    }
    let mut names = HashSet::new();
    for resource in resources {
        resource.validate(directory)?;
        if !names.insert(&resource.name) {
            return Err(format!("there are two resources {:?}", resource.name));
        }
    }
    Ok(())
}

/// Whether Kubernetes accepts the text as the name of an extended resource, which a device
/// plugin can offer.
fn is_extended_resource(text: &str) -> bool {
    let Some((domain, name)) = text.split_once('/') else {
        return false;
    };
    let is_end = |c: u8| c.is_ascii_alphanumeric();
    let is_inside = |c: u8| is_end(c) || matches!(c, b'-' | b'_' | b'.');
    let is_word = |text: &str, inside: &dyn Fn(u8) -> bool| {
        let bytes = text.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        let ends = ends.iter().all(|end| end.is_some_and(|end| is_end(*end)));
        ends && bytes.iter().all(|byte| inside(*byte))
    };
    let is_lower = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let is_label = |label: &str| is_word(label, &is_lower);
    domain.len() <= LONGEST_DOMAIN
        && domain.split('.').all(is_label)
        && !domain.ends_with(NATIVE)
        && !domain.starts_with("requests.")
        && name.len() <= LONGEST_NAME
        && is_word(name, &is_inside)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::vpc::eni::tests::eni;

    #[test]
    fn an_extended_resource_has_a_domain_that_is_not_kubernetes_own() {
        for right in [
            "eni-cni.io/user-plane",
            "a/b",
            "x.example/N_1.b",
            "kubernetes.io.example/a",
        ] {
            assert!(is_extended_resource(right), "{right}");
        }
        let long = format!("a.example/{}", "n".repeat(64));
        for wrong in [
            "user-plane",
            "/a",
            "a/",
            "a.example/b/c",
            "A.example/b",
            "a..b/c",
            "-a.example/b",
            "kubernetes.io/a",
            "vpc.kubernetes.io/a",
            "requests.a.example/b",
            "a.example/-b",
            "a.example/b c",
            "ä.example/b",
            "",
            &long,
        ] {
            assert!(!is_extended_resource(wrong), "{wrong}");
        }
    }

    #[test]
    fn an_eni_is_selected_by_all_that_is_given() {
        let mut eni = eni();
        eni.tags
            .insert("eni-cni/network".into(), "user-plane".into());
        let selects = |selector| {
            let selector: EniSelector = serde_json::from_value(selector).unwrap();
            selector.validate().unwrap();
            selector.selects(&eni)
        };
        for right in [
            json!({"id": "eni-1"}),
            json!({"subnet": "subnet-1"}),
            json!({"subnet": "10.0.4.0/24"}),
            json!({"subnet": "10.0.4.7/24"}),
            json!({"tag": {"eni-cni/network": "user-plane"}}),
            json!({"subnet": "subnet-1", "tag": {"eni-cni/network": "user-plane"}}),
        ] {
            assert!(selects(right.clone()), "{right}");
        }
        for wrong in [
            json!({"id": "eni-11"}),
            json!({"subnet": "10.0.4.0/25"}),
            json!({"tag": {"eni-cni/network": "management"}}),
            json!({"subnet": "subnet-2", "tag": {"eni-cni/network": "user-plane"}}),
        ] {
            assert!(!selects(wrong.clone()), "{wrong}");
        }
    }
}
