//! Who holds an ENI of the node, and with it a slot of the instance, by EC2's description.
//! Pure.

use std::collections::BTreeMap;

use common::attach::inventory::{Eni, NETWORK_TAG, NO_MANAGE_TAG, is_primary};
use serde::Serialize;

use crate::vpc::ec2::{Description, Place};

/// The tag by which a component of EKS marks an ENI that it has created, and its values.
/// Source: amazon-vpc-cni-k8s `pkg/awsutils`, amazon-vpc-resource-controller-k8s `pkg/config`.
const OWNER_TAG: &str = "eks:eni:owner";
const VPC_CNI: &str = "amazon-vpc-cni";
const RESOURCE_CONTROLLER: &str = "eks-vpc-resource-controller";
/// What versions without that tag write. Source: as above.
const VPC_CNI_TAG: &str = "node.k8s.amazonaws.com/instance_id";
const VPC_CNI_DESCRIPTION: &str = "aws-K8S-";
const RESOURCE_CONTROLLER_DESCRIPTION: &str = "aws-k8s-";
/// How many tags a text has; an ENI can have fifty.
const MOST_TAGS: usize = 6;

/// An ENI of the node, as EC2 or the inventory has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attached<'a> {
    pub(crate) id: &'a str,
    pub(crate) mac: &'a str,
    pub(crate) place: Place,
    pub(crate) no_manage: bool,
    /// The value of its network tag, by which a configuration names it.
    pub(crate) network: Option<&'a str>,
    pub(crate) tags: &'a BTreeMap<String, String>,
    pub(crate) description: &'a str,
    pub(crate) requester_id: &'a str,
    pub(crate) requester_managed: bool,
}

/// The holder of an ENI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Holder {
    /// The node itself: it is the primary ENI.
    Primary,
    /// A network of the configuration, by its tag.
    Network,
    /// As `Network`, but the configuration names no or fewer ENIs with this tag.
    Unwanted,
    /// The VPC CNI, by its description or tags.
    VpcCni,
    /// The VPC resource controller of EKS, which gives pods security groups.
    VpcResourceController,
    /// A service of AWS.
    AwsService,
    /// Another program or person, and the ENI is tagged for pods.
    OtherForPods,
    /// Another program or person, and the VPC CNI may use the ENI.
    Other,
}

impl<'a> From<&'a Description> for Attached<'a> {
    fn from(eni: &'a Description) -> Self {
        Self {
            id: &eni.id,
            mac: &eni.mac,
            place: eni.place(),
            no_manage: eni.no_manage,
            network: eni.network(),
            tags: &eni.tags,
            description: &eni.description,
            requester_id: &eni.requester_id,
            requester_managed: eni.requester_managed,
        }
    }
}

impl<'a> From<&'a Eni> for Attached<'a> {
    fn from(eni: &'a Eni) -> Self {
        Self {
            id: &eni.id,
            mac: &eni.mac,
            place: Place {
                network_card: eni.network_card_index,
                device_index: eni.device_index,
            },
            no_manage: eni.no_manage,
            network: Some(eni.network.as_str()).filter(|name| !name.is_empty()),
            tags: &eni.tags,
            description: &eni.description,
            requester_id: &eni.requester_id,
            requester_managed: eni.requester_managed,
        }
    }
}

impl Attached<'_> {
    /// Whether it is the primary ENI of the node.
    pub(crate) fn is_primary(&self) -> bool {
        is_primary(self.place.network_card, self.place.device_index)
    }

    /// Whether pods may have addresses of it.
    pub(crate) fn is_for_pods(&self) -> bool {
        self.no_manage && !self.is_primary()
    }

    /// Its holder, by EC2's description.
    pub(crate) fn holder(&self) -> Holder {
        let owner = self.tags.get(OWNER_TAG).map_or("", String::as_str);
        let begins = |text: &str| self.description.starts_with(text);
        if self.is_primary() {
            Holder::Primary
        } else if self.network.is_some() {
            Holder::Network
        } else if owner == RESOURCE_CONTROLLER || begins(RESOURCE_CONTROLLER_DESCRIPTION) {
            Holder::VpcResourceController
        } else if self.no_manage {
            Holder::OtherForPods
        } else if owner == VPC_CNI
            || begins(VPC_CNI_DESCRIPTION)
            || self.tags.contains_key(VPC_CNI_TAG)
        {
            Holder::VpcCni
        } else if self.requester_managed {
            Holder::AwsService
        } else {
            Holder::Other
        }
    }

    /// The ENI with its holder, as a text for people.
    pub(crate) fn named(&self, holder: Holder) -> String {
        let network = self.network.unwrap_or_default();
        let who = match holder {
            Holder::Primary => "the primary ENI".to_owned(),
            Holder::Network => format!("of {network:?}"),
            Holder::Unwanted => {
                format!("of {network:?}, more than the configuration names")
            }
            Holder::VpcCni => self.with_origin("the VPC CNI's"),
            Holder::VpcResourceController => self.with_origin("the VPC resource controller's"),
            Holder::AwsService => self.with_origin("a service of AWS manages it"),
            Holder::OtherForPods => self.with_origin("for pods, attached by somebody else"),
            Holder::Other => self.with_origin(
                "attached by somebody else without the tag for pods, so the VPC CNI may use it",
            ),
        };
        format!("{} ({who})", self.id)
    }

    /// The text with the description, the creator and the tags of the ENI, which tell an
    /// operator where it comes from.
    fn with_origin(&self, who: &str) -> String {
        let mut origin = Vec::new();
        if !self.description.is_empty() {
            origin.push(format!("description {:?}", self.description));
        }
        if !self.requester_id.is_empty() {
            origin.push(format!("created by {}", self.requester_id));
        }
        let is_told = |key: &&String| *key == NO_MANAGE_TAG || *key == NETWORK_TAG;
        let tags = self.tags.iter().filter(|(key, _)| !is_told(key));
        let tags: Vec<String> = tags.map(|(key, value)| format!("{key}={value}")).collect();
        if let Some(some) = tags.get(..tags.len().min(MOST_TAGS))
            && !some.is_empty()
        {
            let more = match tags.len() - some.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            origin.push(format!("tags {}{more}", some.join(" ")));
        }
        match origin.is_empty() {
            true => who.to_owned(),
            false => format!("{who}: {}", origin.join(", ")),
        }
    }
}

impl Holder {
    /// The name in JSON and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Network => "network",
            Self::Unwanted => "unwanted",
            Self::VpcCni => "vpc-cni",
            Self::VpcResourceController => "vpc-resource-controller",
            Self::AwsService => "aws-service",
            Self::OtherForPods => "other-for-pods",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vpc::eni::tests::eni;

    fn with(tags: &[(&str, &str)], description: &str) -> Eni {
        let tags = tags.iter();
        let tags: BTreeMap<String, String> = tags
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Eni {
            no_manage: tags.contains_key(NO_MANAGE_TAG),
            network: tags.get(NETWORK_TAG).cloned().unwrap_or_default(),
            tags,
            description: description.to_owned(),
            ..eni()
        }
    }

    #[test]
    fn who_has_an_eni_is_told_by_its_place_its_tags_and_its_description() {
        let (ours, pods) = ((NETWORK_TAG, "user"), (NO_MANAGE_TAG, "true"));
        let managed = Eni {
            requester_managed: true,
            ..with(&[], "an endpoint")
        };
        let primary = Eni {
            device_index: 0,
            ..with(&[ours, pods], "")
        };
        for (eni, expected) in [
            (primary, Holder::Primary),
            (with(&[ours, pods], "user of i-1"), Holder::Network),
            (with(&[], "aws-K8S-i-1"), Holder::VpcCni),
            (with(&[(OWNER_TAG, VPC_CNI)], ""), Holder::VpcCni),
            (with(&[(VPC_CNI_TAG, "i-1")], ""), Holder::VpcCni),
            (
                with(&[(OWNER_TAG, RESOURCE_CONTROLLER)], ""),
                Holder::VpcResourceController,
            ),
            (
                with(&[], "aws-k8s-trunk-eni"),
                Holder::VpcResourceController,
            ),
            (managed, Holder::AwsService),
            (with(&[pods], "multus"), Holder::OtherForPods),
            (with(&[], "by hand"), Holder::Other),
        ] {
            assert_eq!(Attached::from(&eni).holder(), expected, "{eni:?}");
            let json = serde_json::to_value(expected).unwrap();
            assert_eq!(json, expected.name());
        }
    }

    #[test]
    fn where_an_eni_of_somebody_else_comes_from_is_told_in_few_words() {
        let tags: Vec<(String, String)> = (0..9)
            .map(|n| (format!("key{n}"), "value".to_owned()))
            .collect();
        let mut tags: Vec<(&str, &str)> = tags
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        tags.push((NO_MANAGE_TAG, "true"));
        let eni = Eni {
            requester_id: "AROA1:lambda".to_owned(),
            ..with(&tags, "a \"multus\" ENI")
        };
        let attached = Attached::from(&eni);
        assert_eq!(
            attached.named(attached.holder()),
            "eni-1 (for pods, attached by somebody else: description \"a \\\"multus\\\" ENI\", \
             created by AROA1:lambda, tags key0=value key1=value key2=value key3=value key4=value \
             key5=value and 3 more)"
        );
        let bare = with(&[NO_MANAGE_TAG].map(|tag| (tag, "true")), "");
        let bare = Attached::from(&bare);
        assert_eq!(
            bare.named(bare.holder()),
            "eni-1 (for pods, attached by somebody else)"
        );
    }
}
