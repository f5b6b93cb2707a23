//! An overview of the ENIs of the node: which are configured and attached, who holds the slots
//! of the instance, which are down, and what the node uses them for. `status`, `doctor`, the
//! metrics and the status page all use these numbers.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::provision::holder::{Attached, Holder};
use crate::provision::host::{Host, State, Uses};
use crate::provision::place;
use crate::provision::wanted::Wanted;

/// The ENIs of the node.
#[derive(Debug, Default)]
pub(crate) struct Overview {
    /// The kinds of ENIs in the configuration.
    pub(crate) kinds: Vec<Kind>,
    /// The ENIs, sorted by their places.
    pub(crate) enis: Vec<EniView>,
    /// The network cards.
    pub(crate) cards: Vec<Card>,
}

/// ENIs of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kind {
    pub(crate) name: String,
    /// How many the configuration asks for.
    pub(crate) count: u32,
    /// How many of these are attached.
    pub(crate) attached: u32,
}

/// What is known of the node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a> {
    pub(crate) instance_id: &'a str,
    /// How many ENIs each network card can have, by its index; empty if EC2 has not said.
    pub(crate) limits: &'a [u32],
    pub(crate) host: &'a Host,
}

/// An ENI.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EniView {
    #[serde(skip)]
    pub(crate) id: String,
    #[serde(skip)]
    pub(crate) network_card: u32,
    #[serde(skip)]
    pub(crate) is_for_pods: bool,
    pub(crate) holder: Holder,
    /// Its description in EC2.
    pub(crate) description: String,
    /// Who had it created.
    pub(crate) requester_id: String,
    /// Whether a service of AWS manages it.
    pub(crate) requester_managed: bool,
    pub(crate) tags: BTreeMap<String, String>,
    /// The state of its interface.
    pub(crate) link: State,
    /// What the node uses it for.
    pub(crate) used_by_node: Uses,
}

/// The slots of a network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Card {
    pub(crate) network_card: u32,
    /// How many ENIs it can have; `None` if EC2 has not said.
    pub(crate) limit: Option<u32>,
    pub(crate) used: usize,
    /// Each ENI with its holder, as texts.
    pub(crate) holders: Vec<String>,
}

impl Overview {
    /// The overview of these ENIs; `wanted` is `None` if the configuration is not known.
    pub(crate) fn of<'a, T>(enis: &'a [T], wanted: Option<&[Wanted]>, node: Node<'_>) -> Self
    where
        Attached<'a>: From<&'a T>,
    {
        let (_, others) = place::split(enis, wanted.unwrap_or_default());
        let others = others.into_iter().map(Attached::from);
        let others = others.filter(|eni| place::is_of(*eni, node.instance_id));
        let others: BTreeSet<&str> = others.map(|eni| eni.id).collect();
        let mut attached: Vec<Attached<'_>> = enis.iter().map(Attached::from).collect();
        attached.sort_by_key(|eni| eni.place);
        let with_holders = attached.iter().map(|eni| match eni.holder() {
            Holder::Network if wanted.is_some() && others.contains(eni.id) => {
                (*eni, Holder::Unwanted)
            }
            holder => (*eni, holder),
        });
        let with_holders: Vec<(Attached<'_>, Holder)> = with_holders.collect();
        let kind = |wanted: &Wanted| Kind {
            name: wanted.name.clone(),
            count: wanted.count,
            attached: wanted.count - place::missing(enis, wanted),
        };
        let seen = |(eni, holder): &(Attached<'_>, Holder)| EniView::of(eni, *holder, node.host);
        Self {
            kinds: wanted.unwrap_or_default().iter().map(kind).collect(),
            enis: with_holders.iter().map(seen).collect(),
            cards: cards(&with_holders, node.limits),
        }
    }

    /// The ENI with this id.
    pub(crate) fn eni(&self, id: &str) -> Option<&EniView> {
        self.enis.iter().find(|eni| eni.id == id)
    }

    /// The numbers of ENIs of each kind, without the primary one, by the names that the metrics
    /// have.
    pub(crate) fn counts(&self) -> [(&'static str, usize); 8] {
        let sum = |number: fn(&Kind) -> u32| {
            let sum: u32 = self.kinds.iter().map(number).sum();
            usize::try_from(sum).unwrap_or(usize::MAX)
        };
        let count =
            |is_such: fn(&EniView) -> bool| self.enis.iter().filter(|eni| is_such(eni)).count();
        [
            ("wanted", sum(|kind| kind.count)),
            ("missing", sum(|kind| kind.count - kind.attached)),
            ("attached", count(|eni| eni.is_for_pods)),
            (
                "down",
                count(|eni| eni.is_for_pods && eni.link == State::Down),
            ),
            (
                "foreign",
                count(|eni| !eni.is_for_pods && eni.holder != Holder::Primary),
            ),
            ("unwanted", count(|eni| eni.holder == Holder::Unwanted)),
            (
                "dhcp",
                count(|eni| eni.is_for_pods && !eni.used_by_node.leased.is_empty()),
            ),
            (
                "default_route",
                count(|eni| eni.is_for_pods && eni.used_by_node.default_route),
            ),
        ]
    }

    /// How many slots of each network card each holder has.
    pub(crate) fn holders(&self) -> BTreeMap<(u32, Holder), usize> {
        let mut holders = BTreeMap::new();
        for eni in &self.enis {
            *holders.entry((eni.network_card, eni.holder)).or_default() += 1;
        }
        holders
    }
}

impl EniView {
    fn of(eni: &Attached<'_>, holder: Holder, host: &Host) -> Self {
        let is_for_pods = eni.is_for_pods();
        let link = host.link(eni.mac).filter(|_| is_for_pods);
        Self {
            id: eni.id.to_owned(),
            network_card: eni.place.network_card,
            is_for_pods,
            holder,
            description: eni.description.to_owned(),
            requester_id: eni.requester_id.to_owned(),
            requester_managed: eni.requester_managed,
            tags: eni.tags.clone(),
            link: host.state(eni.mac),
            // How the node uses an ENI that is not for pods is its own affair.
            used_by_node: link.map(|link| host.uses(link)).unwrap_or_default(),
        }
    }

    /// What is wrong with its interface, as texts.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let down = self.is_for_pods && self.link == State::Down;
        let down = down.then(|| "it is down".to_owned());
        down.into_iter().chain(self.used_by_node.texts()).collect()
    }
}

impl Card {
    /// Whether no more ENIs can be attached to it.
    pub(crate) fn is_full(&self) -> bool {
        let limit = self.limit.and_then(|limit| usize::try_from(limit).ok());
        limit.is_some_and(|limit| self.used >= limit)
    }

    /// The slots as a text.
    pub(crate) fn says(&self) -> String {
        let of = self.limit.map(|limit| format!(" of {limit}"));
        let holders = self.holders.join(", ");
        format!("{}{} ENIs: {holders}", self.used, of.unwrap_or_default())
    }
}

fn cards(enis: &[(Attached<'_>, Holder)], limits: &[u32]) -> Vec<Card> {
    let known = (0..).zip(limits).map(|(card, limit)| (card, Some(*limit)));
    let mut all: BTreeMap<u32, Option<u32>> = known.collect();
    for (eni, _) in enis {
        all.entry(eni.place.network_card).or_default();
    }
    let card = |(card, limit): (u32, Option<u32>)| {
        let on_card = enis
            .iter()
            .filter(|(eni, _)| eni.place.network_card == card);
        let holders: Vec<String> = on_card.map(|(eni, holder)| eni.named(*holder)).collect();
        Card {
            network_card: card,
            limit,
            used: holders.len(),
            holders,
        }
    };
    all.into_iter().map(card).collect()
}
