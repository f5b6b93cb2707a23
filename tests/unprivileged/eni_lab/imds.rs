//! The metadata service, as one node sees it.

use std::time::{Duration, Instant};

use fixtures::lab::{PATIENCE, TTL, Vpc, address, ip, listener, send};
use harness::eni_lab::{CANARY, Lab, REGION};
use serde_json::Value;

/// Version 2 only.
#[test]
fn without_a_token_there_is_nothing() {
    let vpc = Vpc::new();
    let path = "/latest/meta-data/instance-id";
    for headers in [vec![], vec!["x-aws-ec2-metadata-token: invented"]] {
        let reply = send(vpc.imds, "GET", path, &headers, "").expect("there is an answer");
        assert_eq!(reply.status, 401);
    }
    assert_eq!(vpc.meta("instance-id"), vpc.node.to_string());
}

/// A token needs a life of at most six hours.
#[test]
fn a_token_needs_a_life() {
    let vpc = Vpc::new();
    for headers in [vec![], vec!["0"], vec!["21601"], vec!["long"]] {
        let headers: Vec<String> = headers.iter().map(|h| format!("{TTL}: {h}")).collect();
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let reply = vpc.put_token(&headers).expect("there is an answer");
        assert_eq!(reply.status, 400, "{headers:?}");
    }
}

/// The AWS SDK takes no token whose answer does not tell its life (aws-config,
/// `imds/client/token.rs`).
#[test]
fn the_answer_tells_the_life_of_the_token() {
    let vpc = Vpc::new();
    let reply = vpc.put_token(&[&format!("{TTL}: 300")]);
    let reply = reply.expect("there is an answer").ok();
    assert!(reply.head.contains(&format!("{TTL}: 300")), "{reply:?}");
}

#[test]
fn an_expired_token_is_refused() {
    let vpc = Vpc::new();
    let header = format!("x-aws-ec2-metadata-token: {}", vpc.token());
    let get = || {
        let path = "/latest/meta-data/instance-id";
        send(vpc.imds, "GET", path, &[&header], "")
            .expect("there is an answer")
            .status
    };
    assert_eq!(get(), 200);
    vpc.lab.expire_imds_tokens();
    assert_eq!(get(), 401);
    assert_ne!(vpc.token(), "");
}

/// A token of one instance is worth nothing at another.
#[test]
fn a_token_is_for_one_instance() {
    let vpc = Vpc::new();
    let (node, _) = vpc.another();
    let other = listener();
    let other_address = address(&other);
    vpc.lab.serve_imds(other, &node);
    let header = format!("x-aws-ec2-metadata-token: {}", vpc.token());
    let path = "/latest/meta-data/instance-id";
    let reply = send(other_address, "GET", path, &[&header], "").expect("there is an answer");
    assert_eq!(reply.status, 401);
}

/// With hop limit 1 the answer to a token request never reaches a pod.
#[test]
fn a_client_behind_too_many_routers_gets_no_token() {
    let vpc = Vpc::new();
    vpc.lab.rules(|r| r.imds_unreachable_token = true);
    assert!(vpc.put_token(&[&format!("{TTL}: 60")]).is_none());
}

#[test]
fn a_service_that_is_down_answers_nothing() {
    let vpc = Vpc::new();
    vpc.lab.rules(|r| r.imds_down = true);
    assert!(vpc.put_token(&[&format!("{TTL}: 60")]).is_none());
    vpc.lab.rules(|r| r.imds_down = false);
    vpc.lab.terminate_instance(&vpc.node);
    assert!(vpc.put_token(&[&format!("{TTL}: 60")]).is_none());
}

/// What eni-sync reads of the instance.
#[test]
fn the_instance_is_described() {
    let vpc = Vpc::new();
    assert_eq!(vpc.meta("instance-type"), "c5.large");
    assert_eq!(vpc.meta("placement/region"), REGION);
    assert_eq!(vpc.meta("placement/availability-zone"), "us-west-2a");
    assert_eq!(vpc.meta("local-ipv4"), "10.0.1.4");
    let document = vpc.get("/latest/dynamic/instance-identity/document").ok();
    let document: Value = serde_json::from_str(&document.body).expect("it is JSON");
    assert_eq!(document["region"], REGION);
    assert_eq!(document["instanceId"], vpc.node.as_str());
    assert_eq!(document["instanceType"], "c5.large");
    assert_eq!(document["accountId"], "123456789012");
}

/// Every MAC with a slash, one a line, no line feed at the end.
#[test]
fn the_list_of_macs_has_slashes() {
    let vpc = Vpc::new();
    let macs = vpc.meta("network/interfaces/macs/");
    let expected = vpc.lab.enis(&vpc.node);
    let expected: Vec<String> = expected
        .iter()
        .map(|eni| format!("{}/", vpc.lab.mac(eni)))
        .collect();
    assert_eq!(macs.split('\n').collect::<Vec<_>>(), expected);
    assert_eq!(vpc.meta("network/interfaces/macs"), macs);
}

/// Every path that amazon-vpc-cni-k8s and eni-sync read, and 404 for what
/// is absent.
#[test]
fn an_interface_is_described_below_its_mac() {
    let vpc = Vpc::new();
    vpc.assign(&["10.0.4.80", "10.0.4.70"]).ok();
    vpc.lab.assign(&vpc.eni, &[ip("2600:1f14:1:4::70")]);
    vpc.lab.add_subnet_cidr(&vpc.subnet, "2600:1f14:1:5::/64");
    let table = [
        ("interface-id", vpc.eni.to_string()),
        ("mac", vpc.lab.mac(&vpc.eni)),
        ("device-number", "1".to_owned()),
        ("subnet-id", vpc.subnet.to_string()),
        ("vpc-id", vpc.vpc.to_string()),
        ("local-ipv4s", "10.0.4.4\n10.0.4.80\n10.0.4.70".to_owned()),
        ("ipv6s", "2600:1f14:1:4::70".to_owned()),
        ("subnet-ipv4-cidr-block", "10.0.4.0/24".to_owned()),
        (
            "subnet-ipv6-cidr-blocks",
            "2600:1f14:1:4::/64\n2600:1f14:1:5::/64".to_owned(),
        ),
        ("vpc-ipv4-cidr-blocks", "10.0.0.0/16".to_owned()),
        ("security-group-ids", "sg-0ab00000000000001".to_owned()),
        ("owner-id", "123456789012".to_owned()),
    ];
    for (name, expected) in table {
        assert_eq!(vpc.of_eni(name).ok().body, expected, "{name}");
    }
    for absent in ["ipv4-prefix", "ipv6-prefix", "network-card", "nonsense"] {
        assert_eq!(vpc.of_eni(absent).status, 404, "{absent}");
    }
    vpc.lab.unassign(&vpc.eni, &[ip("2600:1f14:1:4::70")]);
    assert_eq!(vpc.of_eni("ipv6s").status, 404);
}

/// IMDS shows what was true some time ago.
#[test]
fn addresses_appear_and_disappear_with_a_lag() {
    let vpc = Vpc::new();
    vpc.assign(&["10.0.4.70"]).ok();
    let has = |lab: &Lab| {
        assert_eq!(lab.addresses(&vpc.eni).len(), 1);
        vpc.of_eni("local-ipv4s").body.contains("10.0.4.70")
    };
    assert!(has(&vpc.lab));
    vpc.lab.rules(|r| r.imds_lag = PATIENCE);
    assert_eq!(vpc.of_eni("local-ipv4s").status, 404, "as it was before");
    let lag = Duration::from_millis(100);
    vpc.lab.rules(|r| r.imds_lag = lag);
    assert!(vpc.lab.wait_until(PATIENCE, has));
    let began = Instant::now();
    vpc.lab.unassign(&vpc.eni, &[ip("10.0.4.70")]);
    let soon = vpc.of_eni("local-ipv4s").body;
    // On a busy machine this was not soon.
    assert!(soon.contains("10.0.4.70") || began.elapsed() >= lag);
    let gone = |_: &Lab| !vpc.of_eni("local-ipv4s").body.contains("10.0.4.70");
    assert!(vpc.lab.wait_until(PATIENCE, gone));
}

/// "404 right after attach is normal".
#[test]
fn below_the_mac_of_an_interface_just_attached_there_is_nothing_yet() {
    let vpc = Vpc::new();
    vpc.lab.rules(|r| r.imds_404_after_attach = PATIENCE);
    let mac = vpc.lab.mac(&vpc.eni);
    assert!(vpc.meta("network/interfaces/macs/").contains(&mac));
    assert_eq!(vpc.of_eni("interface-id").status, 404);
    assert_eq!(vpc.of_eni("").status, 404);
    vpc.lab.rules(|r| r.imds_404_after_attach = Duration::ZERO);
    assert_eq!(vpc.of_eni("interface-id").ok().body, vpc.eni.to_string());
}

/// Credentials of the role, for each instance others.
#[test]
fn the_role_has_credentials() {
    let vpc = Vpc::new();
    let role = vpc.meta("iam/security-credentials/");
    let path = format!("iam/security-credentials/{role}");
    let read = || -> Value { serde_json::from_str(&vpc.meta(&path)).expect("it is JSON") };
    let credentials = read();
    assert_eq!(credentials["Code"], "Success");
    assert_eq!(credentials["AccessKeyId"], vpc.lab.access_key(&vpc.node));
    for secret in ["SecretAccessKey", "Token"] {
        let text = credentials[secret].as_str().unwrap_or_default();
        assert!(text.contains(CANARY), "{text}");
    }
    assert!(credentials["Expiration"].is_string());
    vpc.lab.expire_credentials();
    assert_ne!(read()["AccessKeyId"], credentials["AccessKeyId"]);
    let (other, _) = vpc.another();
    assert_ne!(vpc.lab.access_key(&other), vpc.lab.access_key(&vpc.node));
}

#[test]
fn without_a_role_there_are_no_credentials() {
    let vpc = Vpc::new();
    vpc.lab.no_role();
    let reply = vpc.get("/latest/meta-data/iam/security-credentials/");
    assert_eq!(reply.status, 404);
}

#[test]
fn requests_are_counted_by_path() {
    let vpc = Vpc::new();
    vpc.meta("instance-id");
    vpc.meta("instance-id");
    assert_eq!(vpc.lab.imds_calls()["/latest/meta-data/instance-id"], 2);
    vpc.lab.reset_calls();
    assert!(vpc.lab.imds_calls().is_empty());
}
