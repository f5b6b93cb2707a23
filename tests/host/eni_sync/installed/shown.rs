//! What `status` and `doctor` say of the plugins that are installed.

use std::fs;

use harness::vpc::Vpc;
use serde_json::json;

use super::{INSIDE, Site};

#[test]
fn status_and_doctor_say_what_is_installed() {
    let vpc = Vpc::new();
    let site = Site::new(&vpc);
    site.replace("ipvlan", "ipvlan");
    fs::write(site.bin.join("host-local"), "#!/bin/sh\n").unwrap();
    fs::remove_file(site.bin.join("eni-host-device")).unwrap();
    let status = site
        .node
        .command(&["status", "--json", "--cni-path", INSIDE])
        .ok();
    let version = env!("CARGO_PKG_VERSION");
    let ours = json!({ "origin": "ours", "version": version });
    assert_eq!(
        status["plugins"],
        json!({ "directory": INSIDE, "installed": {
            "eni-host-local": ours, "eni-ipvlan": ours, "host-device": ours,
            "host-local": { "origin": "other" }, "ipvlan": { "origin": "go" },
        }})
    );
    let table = site.node.command(&["status", "--cni-path", INSIDE]).stdout;
    let expected = format!("eni-ipvlan (this suite's, version {version})");
    assert!(
        table.contains(&expected) && table.contains("ipvlan (the Go plugin)"),
        "{table}"
    );

    let network = json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [
        { "type": "ipvlan", "masterSelector": { "mac": site.node.mac },
          "ipam": { "type": "host-local", "subnet": "10.0.4.0/24" } },
    ]});
    let device =
        json!({ "cniVersion": "1.0.0", "name": "d", "type": "eni-host-device", "device": "ens6" });
    fs::write(
        site.node.run_directory().join("n.json"),
        network.to_string(),
    )
    .unwrap();
    fs::write(site.node.run_directory().join("d.json"), device.to_string()).unwrap();
    let arguments = [
        "doctor",
        "--json",
        "--cni-path",
        INSIDE,
        "--nad",
        "/run/n.json",
        "/run/d.json",
    ];
    let report = site.node.command(&arguments).document();
    let findings = report["findings"].as_array().unwrap().iter();
    let found: Vec<(&str, &str)> = findings
        .filter(|finding| finding["check"] == "plugin-installed" && finding["level"] != "ok")
        .map(|f| (f["level"].as_str().unwrap(), f["says"].as_str().unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            ("warning", "is another program"),
            ("warning", "is the Go plugin"),
            (
                "error",
                "/run/bin/ipvlan is the Go plugin, which does not know masterSelector"
            ),
            ("error", "/run/bin/eni-host-device is missing"),
        ]
    );
}

#[test]
fn the_doctor_takes_a_network_of_a_name_of_our_own_for_what_it_is() {
    let vpc = Vpc::new();
    let site = Site::new(&vpc);
    site.node.command(&["sync", "--once"]);
    let network = json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [
        { "type": "eni-ipvlan", "master": "ens6", "flag": "sideways",
          "ipam": { "type": "eni-host-local", "subnet": "10.0.9.0/24" } },
        { "type": "eni-sync" },
    ]});
    fs::write(
        site.node.run_directory().join("n.json"),
        network.to_string(),
    )
    .unwrap();
    let report = site
        .node
        .command(&["doctor", "--json", "--nad", "/run/n.json"])
        .document();
    let findings = report["findings"].as_array().unwrap();
    let has = |check: &str, says: &str| {
        let mut findings = findings.iter();
        findings.any(|f| f["check"] == check && f["says"].as_str().unwrap().contains(says))
    };
    assert!(has("plugin-order", "ipvlan, eni-sync"), "{report:#}");
    assert!(has("keys", "sideways"), "{report:#}");
}
