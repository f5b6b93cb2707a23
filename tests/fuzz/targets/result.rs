//! Results as `prevResult` brings them, of every version: what is read, is printed in
//! every version, read again and printed again is the same text.
#![no_main]

use common::cni::result::{AddResult, Dns, Interface};
use common::cni::version::CniVersion;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(document) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    for version in CniVersion::ALL {
        match AddResult::from_value(&document, version) {
            Ok(result) => {
                assert_printed_the_same(&result);
                assert_complete_in_its_own_version(&result, version);
                assert_chained(&result);
            }
            Err(error) => fuzz::assert_reportable(&error),
        }
    }
});

fn assert_printed_the_same(result: &AddResult) {
    for version in CniVersion::ALL {
        let Ok(text) = result.to_json(version) else {
            assert!(result.ips.is_empty() && version <= CniVersion::V0_2_0);
            continue;
        };
        assert_eq!(read(&text, version).to_json(version).ok(), Some(text));
    }
}

/// Nothing is lost in the newest version, and nothing in the one that it came in.
fn assert_complete_in_its_own_version(result: &AddResult, version: CniVersion) {
    let text = result
        .to_json(CniVersion::LATEST)
        .expect("it has a place for all");
    assert_eq!(read(&text, CniVersion::LATEST), *result);
    if let Ok(text) = result.to_json(version) {
        assert_eq!(read(&text, version).ips.len(), result.ips.len());
    }
}

/// An attachment behind it changes nothing of what was there.
fn assert_chained(result: &AddResult) {
    let addresses = AddResult {
        ips: result.ips.clone(),
        routes: result.routes.clone(),
        ..AddResult::default()
    };
    let own = addresses.attached(Interface::default(), Dns::default());
    let chained = result.clone().append(own);
    assert!(chained.interfaces.starts_with(&result.interfaces));
    assert!(chained.ips.starts_with(&result.ips));
    let (_, own) = chained.ips.split_at(result.ips.len());
    assert!(
        own.iter()
            .all(|ip| ip.interface == Some(result.interfaces.len()))
    );
}

fn read(text: &str, version: CniVersion) -> AddResult {
    let document: Value = serde_json::from_str(text).expect("it is JSON");
    AddResult::from_value(&document, version).unwrap_or_else(|error| panic!("{text}: {error}"))
}
