//! The instance metadata service, version 2 only: what an instance can read about itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::describe::{ipv6_ranges, prefixes, timestamp};
use super::id::InstanceId;
use super::state::{State, access_key};
use super::world::{Eni, Instance, InstanceState, PRIMARY, World};
use super::{ACCOUNT, AMI, REGION};

/// The longest lifetime of a token, in seconds: six hours.
const LONGEST_TOKEN: u64 = 21600;

/// The lifetime of credentials that is reported.
const CREDENTIALS_LIFE: Duration = Duration::from_secs(6 * 60 * 60);

/// The secret key, which a test must never find anywhere but in signatures of requests to
/// EC2.
pub const CANARY: &str = "SECRETCANARY";

/// Some versions of the metadata.
const VERSIONS: [&str; 4] = ["1.0", "2021-03-23", "2024-04-11", "latest"];

/// The header with the lifetime of a token, in the request and in the response: the AWS SDK
/// accepts no token without it.
pub(super) const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";

/// A request to IMDS.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) token: Option<&'a str>,
    pub(super) ttl: Option<&'a str>,
}

/// A response of IMDS.
#[derive(Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: String,
    /// The lifetime of the token that is the body.
    pub(super) ttl: Option<u64>,
}

impl Reply {
    fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }
}

/// The response to a request; `None` closes the connection.
pub(super) fn answer(
    state: &mut State,
    instance: &InstanceId,
    request: &Request<'_>,
) -> Option<Reply> {
    let found = state.world.instance(instance.as_str()).ok()?.clone();
    let down_for = state.rules.imds_down_for.as_deref();
    let is_down = state.rules.imds_down || down_for.is_some_and(|end| request.path.ends_with(end));
    if is_down || found.state == InstanceState::Terminated {
        return None;
    }
    if request.path == "/latest/api/token" {
        if state.rules.imds_unreachable_token {
            return None;
        }
        return Some(token(state, instance, request));
    }
    let valid = |token: &str| {
        let known = state.tokens.get(&format!("{instance} {token}"));
        known.is_some_and(|expires| *expires > Instant::now())
    };
    if !request.token.is_some_and(valid) {
        return Some(Reply::status(401));
    }
    if request.method != "GET" {
        return Some(Reply::status(405));
    }
    let answer = versioned(request.path, || tree(state, &found));
    let (status, body) = answer.map_or_else(|| (404, not_found()), |text| (200, text));
    Some(Reply {
        status,
        body,
        ttl: None,
    })
}

/// The paths below a version of the metadata; all versions are the same here. The names of
/// all versions are at the top.
fn versioned(path: &str, tree: impl FnOnce() -> BTreeMap<String, String>) -> Option<String> {
    let path = path.trim_start_matches('/');
    if path.is_empty() {
        return Some(VERSIONS.join("\n"));
    }
    let (version, below) = path.split_once('/').unwrap_or((path, ""));
    let is_known = VERSIONS.contains(&version);
    let below_version = || match below {
        "" => Some("dynamic\nmeta-data".to_owned()),
        below => read(&tree(), below),
    };
    is_known.then(below_version).flatten()
}

/// A new token. The request must name its lifetime in seconds.
fn token(state: &mut State, instance: &InstanceId, request: &Request<'_>) -> Reply {
    if request.method != "PUT" {
        return Reply::status(405);
    }
    let ttl = request.ttl.and_then(|ttl| ttl.parse().ok());
    let Some(ttl) = ttl.filter(|ttl| (1..=LONGEST_TOKEN).contains(ttl)) else {
        return Reply::status(400);
    };
    let token = format!("LABTOKEN{:032}==", state.tokens.len());
    let expires = Instant::now() + Duration::from_secs(ttl);
    state.tokens.insert(format!("{instance} {token}"), expires);
    Reply {
        status: 200,
        body: token,
        ttl: Some(ttl),
    }
}

/// The value at the path, or the names below it: a name that has names below it ends with a
/// slash.
fn read(tree: &BTreeMap<String, String>, path: &str) -> Option<String> {
    if let Some(value) = tree.get(path) {
        return Some(value.clone());
    }
    let path = path.trim_end_matches('/');
    let mut names = BTreeSet::new();
    for key in tree.keys() {
        let Some(rest) = key.strip_prefix(path).and_then(|r| r.strip_prefix('/')) else {
            continue;
        };
        let name = match rest.split_once('/') {
            Some((name, _)) => format!("{name}/"),
            None => rest.to_owned(),
        };
        if !name.trim().is_empty() {
            names.insert(name);
        }
    }
    let names: Vec<String> = names.into_iter().collect();
    (!names.is_empty()).then(|| names.join("\n"))
}

fn not_found() -> String {
    "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n<html><head><title>404 - Not Found</title></head>\
     <body><h1>404 - Not Found</h1></body></html>\n"
        .to_owned()
}

/// Everything that the instance can read, by path below `/latest/`.
fn tree(state: &State, instance: &Instance) -> BTreeMap<String, String> {
    let mut meta: BTreeMap<String, String> = interfaces(state, instance);
    meta.insert("instance-id".to_owned(), instance.id.to_string());
    meta.insert("instance-type".to_owned(), instance.kind.clone());
    meta.insert("ami-id".to_owned(), AMI.to_owned());
    meta.insert("services/domain".to_owned(), "amazonaws.com".to_owned());
    meta.insert("services/partition".to_owned(), "aws".to_owned());
    meta.insert("placement/region".to_owned(), REGION.to_owned());
    let zone = state.world.zone(instance).to_owned();
    meta.insert("placement/availability-zone".to_owned(), zone);
    if let Some(role) = &state.role {
        let path = format!("iam/security-credentials/{role}");
        meta.insert(path, credentials(state, &instance.id));
    }
    let below = |(path, value)| (format!("meta-data/{path}"), value);
    let mut tree: BTreeMap<String, String> = meta.into_iter().map(below).collect();
    let document = "dynamic/instance-identity/document".to_owned();
    tree.insert(document, identity(state, instance));
    tree
}

/// The interfaces, as they were some time ago if the rules delay them.
fn interfaces(state: &State, instance: &Instance) -> BTreeMap<String, String> {
    let world = state.world_before(state.rules.imds_lag);
    let mut meta = BTreeMap::new();
    for (place, eni) in world.attached(&instance.id) {
        if place == PRIMARY {
            meta.insert("mac".to_owned(), eni.mac.clone());
            meta.extend(
                eni.primary
                    .map(|a| ("local-ipv4".to_owned(), a.to_string())),
            );
        }
        let directory = format!("network/interfaces/macs/{}/", eni.mac);
        let age = eni.attachment.as_ref().map(|a| a.since.elapsed());
        if age.is_some_and(|age| age < state.rules.imds_404_after_attach) {
            // A name that is never requested keeps the MAC itself in the list.
            meta.insert(format!("{directory} "), String::new());
            continue;
        }
        for (name, value) in interface(world, eni) {
            meta.insert(format!("{directory}{name}"), value);
        }
    }
    meta
}

/// The paths below the MAC of an interface. An empty list has no path, and so results in
/// 404.
fn interface(world: &World, eni: &Eni) -> BTreeMap<&'static str, String> {
    let mut values = BTreeMap::from([
        ("interface-id", eni.id.to_string()),
        ("mac", eni.mac.clone()),
        ("owner-id", ACCOUNT.to_owned()),
        ("security-group-ids", eni.groups.join("\n")),
        ("security-groups", "default".to_owned()),
        ("subnet-id", eni.subnet.to_string()),
        ("vpc-id", eni.vpc.to_string()),
    ]);
    if let Some(attachment) = &eni.attachment {
        values.insert("device-number", attachment.device_index.to_string());
        if attachment.network_card != 0 {
            values.insert("network-card", attachment.network_card.to_string());
        }
    }
    let ipv4 = eni.all().filter(std::net::IpAddr::is_ipv4);
    let ipv4 = ipv4.map(|a| a.to_string());
    let mut lists = vec![
        ("local-ipv4s", ipv4.collect::<Vec<_>>()),
        ("ipv6s", eni.ipv6().map(|a| a.to_string()).collect()),
        ("ipv4-prefix", prefixes(eni, false).collect()),
        ("ipv6-prefix", prefixes(eni, true).collect()),
    ];
    if let Ok(subnet) = world.subnet(eni.subnet.as_str()) {
        let ipv6 = subnet.ipv6.iter().map(ToString::to_string).collect();
        lists.push((
            "subnet-ipv4-cidr-block",
            subnet.cidr.iter().map(ToString::to_string).collect(),
        ));
        lists.push(("subnet-ipv6-cidr-blocks", ipv6));
    }
    if let Ok(vpc) = world.vpc(eni.vpc.as_str()) {
        let ipv6 = ipv6_ranges(world, vpc);
        let ipv6 = ipv6.iter().map(ToString::to_string);
        lists.push(("vpc-ipv4-cidr-block", vec![vpc.cidr.to_string()]));
        lists.push(("vpc-ipv4-cidr-blocks", vec![vpc.cidr.to_string()]));
        lists.push(("vpc-ipv6-cidr-blocks", ipv6.collect()));
    }
    let present = lists.into_iter().filter(|(_, list)| !list.is_empty());
    values.extend(present.map(|(name, list)| (name, list.join("\n"))));
    values
}

fn identity(state: &State, instance: &Instance) -> String {
    let attached = state.world.attached(&instance.id);
    let document = json!({
        "accountId": ACCOUNT,
        "architecture": "x86_64",
        "availabilityZone": state.world.zone(instance),
        "imageId": AMI,
        "instanceId": instance.id.as_str(),
        "instanceType": instance.kind,
        "pendingTime": timestamp(instance.launched),
        "privateIp": attached.get(&PRIMARY).and_then(|eni| eni.primary),
        "region": REGION,
        "version": "2017-09-30",
    });
    format!("{document:#}")
}

fn credentials(state: &State, instance: &InstanceId) -> String {
    let generation = state.key_generation;
    let now = SystemTime::now();
    let document = json!({
        "Code": "Success",
        "LastUpdated": timestamp(now),
        "Type": "AWS-HMAC",
        "AccessKeyId": access_key(instance, generation),
        "SecretAccessKey": format!("{CANARY}+key/{instance}/{generation}"),
        "Token": format!("{CANARY}+token/{instance}/{generation}"),
        "Expiration": timestamp(now + CREDENTIALS_LIFE),
    });
    format!("{document:#}")
}
