//! What eni-sync writes for itself: these bytes as an entry of the ledger, as a request to
//! the agent and as its answer. What is read is what is printed, and the rules can be
//! applied to any entry.
#![no_main]

#[path = "../../../eni-sync/src"]
#[allow(
    dead_code,
    unused_imports,
    reason = "a target is made of a part of the program"
)]
mod program {
    pub mod deadline;
    pub mod ledger;
    pub mod limits;
    pub mod plugin {
        pub mod config;
        pub mod socket;
    }
    pub mod registration {
        pub mod desired;
        pub mod request;
        pub mod rules;
    }
    pub mod vpc {
        pub mod ec2 {
            mod types;
            pub(crate) use self::types::{Description, Family};
        }
        pub mod eni;
    }
}
pub use program::{deadline, ledger, limits, plugin, registration, vpc};

use std::os::unix::net::UnixStream;

use ledger::{Entry, Owner, State};
use libfuzzer_sys::fuzz_target;
use plugin::socket::{self, Answer, Ask};
use registration::rules;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    if let Some(entry) = printed_and_read::<Entry>(data) {
        assert_rules_apply(&entry);
    }
    if let Some(answer) = printed_and_read::<Answer>(data)
        && let Answer::Refused(refusal) = answer
    {
        assert_eq!(ledger::Refusal::of(&refusal.error()), refusal);
    }
    printed_and_read::<Ask>(data);
    read_by_the_agent(data);
});

/// The document that these bytes are. Printed and read again it is the same.
fn printed_and_read<T: DeserializeOwned + Serialize>(data: &[u8]) -> Option<T> {
    let document: T = serde_json::from_slice(data).ok()?;
    let text = serde_json::to_string(&document).expect("it can be printed");
    let again: T = serde_json::from_str(&text).unwrap_or_else(|cause| panic!("{text}: {cause}"));
    assert_eq!(
        serde_json::to_string(&again).expect("it can be printed"),
        text
    );
    Some(document)
}

fn assert_rules_apply(entry: &Entry) {
    let entries = std::slice::from_ref(entry);
    let is_releasing = matches!(entry.state, State::Releasing { .. });
    let is_leaving = is_releasing || matches!(entry.state, State::Withdrawn { .. });
    for now in [0, entry.since, ledger::now(), u64::MAX] {
        let due = rules::due(entries, now);
        assert!(is_leaving || due.is_empty());
        assert_eq!(rules::release_time(entries, now).is_some(), is_leaving);
        assert!(!rules::is_worth_releasing(entries, now) || !due.is_empty());
        let cooling = rules::cooling(entries, now);
        assert_eq!(cooling.len(), usize::from(is_releasing));
    }
    if let Some(owner) = &entry.owner {
        assert!(owner.is_same(owner) && entry.is_owned_by(owner));
        let stranger = stranger(owner);
        let by = (&stranger, ledger::Takeover::default());
        let claim = rules::claim(Some(entry), by, true, ledger::now());
        assert!(!entry.is_in_use() || claim == rules::Claim::Taken);
    }
    assert!(!entry.state.name().is_empty());
    // With any cool-down at all.
    let ended = entry.clone().ended();
    assert_eq!(ended.map(|ended| ended.address), Some(entry.address));
}

fn stranger(owner: &Owner) -> Owner {
    Owner {
        container_id: format!("not {}", owner.container_id),
        ..owner.clone()
    }
}

fn read_by_the_agent(data: &[u8]) {
    let (plugin, agent) = UnixStream::pair().expect("there are sockets");
    // It does not wait for who reads: inputs are smaller than its buffer.
    std::io::Write::write_all(&mut &plugin, data).expect("it can be written");
    plugin
        .shutdown(std::net::Shutdown::Write)
        .expect("it is open");
    let is_request = serde_json::from_slice::<Ask>(data).is_ok();
    assert_eq!(socket::read(&agent).is_ok(), is_request);
}
