//! The page of the agent: what is on it, that nothing on it is obeyed, who may read it, and how a
//! browser shows it.

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::{Agent, Pod};
use serde_json::{Value, json};

use super::fixture::{AwsNode, CANARY, Vpc, eventually};
use super::scrape::{ADDRESS, get_as};

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

/// Gives the ledger this many addresses, of pods with long names.
fn fill(node: &AwsNode, count: usize) {
    let text = fs::read_to_string(node.ledger_path().join("10.0.4.70")).unwrap();
    let entry: Value = serde_json::from_str(&text).unwrap();
    fs::remove_file(node.ledger_path().join("10.0.4.70")).unwrap();
    for number in 0..count {
        let address = format!("10.0.{}.{}", 8 + number / 250, 1 + number % 250);
        let mut entry = entry.clone();
        entry["address"] = json!(address);
        let names = [
            "telco-control-plane/session-management-function",
            "default/web",
        ];
        entry["owner"]["pod"] = json!(format!("{}-{number}", names[number % 2]));
        fs::write(node.ledger_path().join(&address), entry.to_string()).unwrap();
    }
}

/// How wide and how high a browser makes a page in a window of this width.
fn size(page: &str, width: u32) -> (u32, u32) {
    let directory = tempfile::tempdir().unwrap();
    // A window of the browser is not as narrow as a telephone; a frame in it is.
    let escaped = page.replace('&', "&amp;").replace('"', "&quot;");
    let frame = format!(
        "<!doctype html><iframe id=f style=\"border:0;width:{width}px;height:100px\" \
         srcdoc=\"{escaped}\"></iframe><script>f.onload = () => {{ \
         const it = f.contentDocument.documentElement; \
         document.title = 'size ' + it.scrollWidth + ' ' + it.scrollHeight; }};</script>"
    );
    let file = directory.path().join("frame.html");
    fs::write(&file, frame).unwrap();
    let text = chromium(
        directory.path(),
        &["--dump-dom", &format!("file://{}", file.display())],
    );
    let size = text
        .split("<title>size ")
        .nth(1)
        .unwrap_or_else(|| panic!("{text}"));
    let size = size.split("</title>").next().unwrap();
    let (width, height) = size.split_once(' ').unwrap();
    (width.parse().unwrap(), height.parse().unwrap())
}

fn chromium(profile: &Path, arguments: &[&str]) -> String {
    let mut browser = Command::new("chromium");
    browser.args(["--headless=new", "--no-sandbox", "--disable-gpu"]);
    browser.args(["--disable-dev-shm-usage", "--virtual-time-budget=10000"]);
    browser.arg(format!(
        "--user-data-dir={}",
        profile.join("profile").display()
    ));
    let output = browser.args(arguments).output();
    let output = output.expect("tests/prepare installs chromium");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_browser_shows_it_without_scrolling_sideways() {
    let (vpc, pod) = (Vpc::new().without_invariants(), Pod::new("c1"));
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({"metrics": "127.0.0.1:9809"}));
    node.add(&pod, &["10.0.4.70"]).ok();
    let entry = node.ledger_path().join("10.0.4.70");
    let kept = fs::read(&entry).unwrap();
    let mut heights = Vec::new();
    for count in [0, 5, 500] {
        fs::write(&entry, &kept).unwrap();
        fill(&node, count);
        let (_, _, page) = get_as(&node, "/", ADDRESS);
        // The agent may have compared them with EC2 by now: its changes are shown as well.
        let addresses = page.split("<h2>Last changes</h2>").next().unwrap();
        let shown = addresses
            .matches("<td data-title=\"ADDRESS\">10.0.8.")
            .count()
            + addresses
                .matches("<td data-title=\"ADDRESS\">10.0.9.")
                .count();
        assert_eq!(shown, count, "{page}");
        if let Some(directory) = std::env::var_os("PAGE_DIRECTORY") {
            let file = Path::new(&directory).join(format!("page-{count}.html"));
            fs::write(file, &page).unwrap();
        }
        for width in [1280, 390] {
            let (needed, height) = size(&page, width);
            assert!(
                needed <= width,
                "{count} addresses need {needed} of {width} pixels"
            );
            heights.push(height);
        }
    }
    // It is the content that is shown: more addresses need more room, and so does less width.
    assert!(
        heights[0] < heights[2] && heights[2] < heights[4],
        "{heights:?}"
    );
    assert!(heights[4] < heights[5], "{heights:?}");
    assert!(eventually(|| get_as(&node, "/healthz", ADDRESS).0 == 200));
}
