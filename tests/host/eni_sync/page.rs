//! The page of the agent: what is on it, that nothing on it is obeyed, and who may read it.

use fixtures::scrape::{ADDRESS, get_as};
use harness::vpc::{CANARY, Vpc, eventually};
use harness::{Agent, Pod};
use serde_json::json;

const HOSTILE: &str = "<script>alert(1)</script>\"'&";

#[test]
fn the_page_shows_what_the_node_has_and_what_has_changed() {
    let (vpc, pod) = (Vpc::new(), Pod::new("c1"));
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({"metrics": "127.0.0.1:9809"}));
    let args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0";
    let call = node.pod_call("ADD", &pod, &["10.0.4.70"]);
    node.run(&call.env("CNI_ARGS", args)).ok();
    let (status, _, page) = get_as(&node, "/", ADDRESS);
    assert_eq!(status, 200, "{page}");
    for text in [
        &format!("<h1>eni-sync on {}</h1>", node.instance),
        "<td data-title=\"ADDRESS\">10.0.4.70</td><td data-title=\"STATE\">held</td>",
        "<td data-title=\"POD\">default/web-0</td>",
        "<td data-title=\"CHANGE\">assigned</td>",
        &format!("<td data-title=\"ENI\">{}</td>", node.eni),
        "<td data-title=\"IPV4\">2 of 10</td>",
        "<h2>Slots of the instance</h2>",
        "<td data-title=\"ENIS\">2 of 3</td>",
        &format!(
            "<td data-title=\"WHO HAS IT\">{} (for pods, attached by somebody else: ",
            node.eni
        ),
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(!page.contains(CANARY));
    assert!(!page.contains("<script") && !page.contains("src=") && !page.contains("href="));
    // Whoever loads it again and again does not make the agent ask EC2.
    node.lab.reset_calls();
    assert_eq!(get_as(&node, "/", ADDRESS).0, 200);
    assert!(node.lab.calls().is_empty(), "{:?}", node.lab.calls());
}

#[test]
fn what_a_pod_is_called_is_shown_and_never_obeyed() {
    let (vpc, pod) = (Vpc::new(), Pod::new("c1"));
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({"metrics": "127.0.0.1:9809"}));
    node.add(&pod, &["10.0.4.70"]).ok();
    node.edit_ledger("10.0.4.70", |entry| {
        entry["owner"]["pod"] = json!(format!("default/{HOSTILE}"));
        entry["owner"]["network"] = json!(HOSTILE);
    });
    let (_, _, page) = get_as(&node, "/", ADDRESS);
    assert!(
        page.contains("default/&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;<"),
        "{page}"
    );
    assert!(!page.contains("<script"), "{page}");
}

#[test]
fn a_pod_without_its_address_is_named_first() {
    let (vpc, pod) = (Vpc::new(), Pod::new("c1"));
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({"metrics": "127.0.0.1:9809"}));
    node.add(&pod, &["10.0.4.70"]).ok();
    node.edit_ledger("10.0.4.70", |entry| {
        let refusal = json!({"code": 11, "msg": "no room", "details": "10 of 10"});
        entry["state"] = json!("claiming");
        entry["takeover"] = json!("never");
        entry["bestEffort"] = json!(true);
        entry["refusal"] = refusal;
    });
    let (_, _, page) = get_as(&node, "/", ADDRESS);
    assert!(
        wrong(&page).contains("without 10.0.4.70 in the VPC: no room"),
        "{page}"
    );
}

/// What a page says is wrong.
fn wrong(page: &str) -> &str {
    page.split("<h2>ENIs</h2>").next().unwrap()
}

#[test]
fn what_both_the_agent_and_the_doctor_know_is_shown_once_with_what_to_do() {
    let (vpc, pod) = (Vpc::new(), Pod::new("c1"));
    let node = vpc.node();
    let resource = json!({
        "name": "eni-cni.io/a", "eni": { "id": node.eni.to_string() }, "kind": "addresses",
    });
    let _agent = Agent::start(
        &node,
        &json!({"metrics": ADDRESS, "devicePluginPath": "/run/nowhere", "resources": [resource]}),
    );
    node.add(&pod, &["10.0.4.70", "10.0.4.7"]).ok();
    for address in ["10.0.4.70", "10.0.4.7"] {
        node.edit_ledger(address, |entry| {
            entry["state"] = json!("claiming");
            entry["takeover"] = json!("never");
            entry["bestEffort"] = json!(true);
            entry["refusal"] = json!({"code": 11, "msg": "no room", "details": "10 of 10"});
        });
    }
    let missing = "there is no directory &quot;/run/nowhere&quot;";
    let shown = || get_as(&node, "/", ADDRESS).2;
    assert!(eventually(|| wrong(&shown()).contains(missing)));
    let page = shown();
    for (said, advice) in [
        (missing, "docs/device-plugin.md says what to do"),
        (
            "without 10.0.4.70 in the VPC: no room",
            "the agent goes on trying",
        ),
        (
            "without 10.0.4.7 in the VPC: no room",
            "the agent goes on trying",
        ),
    ] {
        let items: Vec<&str> = wrong(&page).split("<li").collect();
        let items: Vec<_> = items.iter().filter(|item| item.contains(said)).collect();
        assert_eq!(items.len(), 1, "{said}: {page}");
        assert!(items[0].contains(advice), "{said}: {page}");
    }
    assert_eq!(wrong(&page).matches("no room").count(), 2, "{page}");
    let row = "<td data-title=\"RESOURCE\">eni-cni.io/a</td>";
    assert!(page.contains(row), "{page}");
}

#[test]
fn no_name_of_somebody_elses_leads_to_what_names_pods() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let resource = json!({
        "name": "eni-cni.io/a", "eni": { "id": node.eni.to_string() }, "kind": "addresses",
    });
    let configuration = json!({
        "metrics": ADDRESS, "devicePluginPath": "/run/nowhere", "resources": [resource],
    });
    let _agent = Agent::start(&node, &configuration);
    let finding = "there is no directory \"/run/nowhere\"";
    assert!(eventually(|| get_as(&node, "/readyz", ADDRESS)
        .2
        .contains(finding)));
    for (host, is_ours) in [
        ("127.0.0.1:9809", true),
        ("localhost:9809", true),
        ("[::1]:9809", true),
        ("rebound.example", false),
        ("rebound.example:9809", false),
        ("rebound.\u{e9}xample", false),
    ] {
        let page = get_as(&node, "/", host).0;
        assert_eq!(page, if is_ours { 200 } else { 403 }, "{host}");
        // A probe may have any name: it learns what it asks for.
        let (status, _, text) = get_as(&node, "/readyz", host);
        assert_eq!((status, text.contains(finding)), (200, is_ours), "{text}");
        for path in ["/healthz", "/metrics"] {
            assert_eq!(get_as(&node, path, host).0, 200, "{host}{path}");
        }
    }
    let (_, head, _) = get_as(&node, "/", "localhost");
    assert!(
        head.contains("content-security-policy: default-src 'none'"),
        "{head}"
    );
}
