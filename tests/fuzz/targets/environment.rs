//! The environment of a call, a variable a line: what is accepted can be a part of a file
//! name, and `CNI_ARGS` are what was written.
#![no_main]

use std::collections::BTreeMap;

use common::cni::args::{Command, Environment, ignores_unknown, parse_cni_args};
use common::cni::identifier::ContainerId;
use common::ifname::IfName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let lines = text.split('\n').filter_map(|line| line.split_once('='));
    let variables: BTreeMap<&str, &str> = lines.collect();
    let read = Environment::read(|name| variables.get(name).map(|value| (*value).to_owned()));
    match read {
        Ok(environment) => assert_complete(&environment),
        Err(error) => fuzz::assert_reportable(&error),
    }
    assert_args_are_what_was_written(&text);
});

fn assert_complete(environment: &Environment) {
    let command = Command::from_text(&environment.command);
    if let Some(Command::Add | Command::Check) = command {
        assert!(!environment.netns.is_empty());
    }
    if let Some(Command::Add | Command::Check | Command::Del) = command {
        let (container_id, ifname) = (&environment.container_id, &environment.ifname);
        assert_file_name(container_id.as_ref().map(ContainerId::as_str));
        assert_file_name(ifname.as_ref().map(IfName::as_str));
    }
}

fn assert_file_name(name: Option<&str>) {
    let name = name.expect("the command needs it");
    assert!(!name.is_empty() && name != "." && name != "..");
    assert!(!name.contains(['/', '\0', ':', '\n', ' ']));
}

fn assert_args_are_what_was_written(text: &str) {
    let Ok(pairs) = parse_cni_args(text) else {
        return;
    };
    let written: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(written.join(";"), text);
    assert!(!ignores_unknown(&pairs) || text.contains("IgnoreUnknown="));
}
