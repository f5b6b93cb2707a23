//! The record of an ENI that is being detached, which cannot be read: a newer version has written
//! it before a rollback, or a disk has lost it. No pod gets the ENI, and everything that says so
//! names the file.

use std::fs;

use harness::vpc::{Agent, Vpc, device_call, eventually};
use harness::{Call, Pod};
use serde_json::json;

use super::doctor::examine;

const UNREADABLE: [(&str, &str); 4] = [
    ("{", "EOF while parsing"),
    ("[]", "invalid type"),
    ("{}", "it has no \"network\""),
    (r#"{"formatVersion": 9}"#, "it is of format 9"),
];

#[test]
fn a_record_that_cannot_be_read_is_named_by_all_that_it_keeps_from_their_work() {
    for (content, why) in UNREADABLE {
        let vpc = Vpc::new();
        let node = vpc.node();
        let name = format!("leaving-{}.json", node.mac);
        let directory = node.node.state().join("eni-cni/enis");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(&name), content).unwrap();
        let pod = Pod::new("c1");
        let conf = json!({
            "cniVersion": "1.1.0", "name": "on", "type": "ipvlan", "master": "ens6",
        });
        let on_it = Call::ours("ipvlan", "ADD").conf(&conf).pod(&pod, "net1");
        for call in [device_call("ADD", "whole", "ens6", &pod), on_it] {
            let error = node.run(&call).error_code(11);
            let expected = "the ENI of \"ens6\" may be being detached from this node";
            assert_eq!(error.msg, expected, "{content}");
            let names_all = error.details.contains(&name) && error.details.contains(why);
            assert!(names_all, "{content}: {error:?}");
        }
        let synced = node.command(&["sync", "--once"]);
        assert_eq!(synced.status, Some(0), "{synced}");
        let mut selecting = conf.clone();
        selecting["master"] = json!("");
        selecting["masterSelector"] = json!({"deviceIndex": 1});
        let call = Call::ours("ipvlan", "ADD").conf(&selecting);
        let error = node.run(&call.pod(&pod, "net1")).error_code(7);
        assert!(error.details.contains(&name), "{content}: {error:?}");
        examine(&node, &[]).has("eni-record", "error", &name);
        let status = node.command(&["status"]);
        assert!(status.stdout.contains(&name), "{content}: {status}");
        let status = node.command(&["status", "--json"]).document();
        let damaged = status["damaged"].to_string();
        assert!(damaged.contains(&name), "{content}: {status}");
        let agent = Agent::start(&node, &json!({}));
        let is_said = || agent.log().contains(&name);
        assert!(eventually(is_said), "{content}: {}", agent.log());
        fs::remove_file(directory.join(&name)).unwrap();
        assert!(examine(&node, &[]).of("eni-record").is_empty());
    }
}
