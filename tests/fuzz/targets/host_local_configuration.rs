//! host-local's configuration and `CNI_ARGS`, which is the first line: what is accepted
//! means the same when it is printed and read again, and what is handed out by it is of
//! its ranges.
#![no_main]

use std::path::Path;

use common::cni::args::ConfArgs;
use common::error::Result;
use host_local_ipam::allocator::{State, choose};
use host_local_ipam::config::{self, Config};
use host_local_ipam::range::RangeSet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let (first, rest) = data.split_at(end);
    let cni_args = String::from_utf8_lossy(first);
    let Some(conf) = fuzz::conf(rest) else {
        return;
    };
    let again = fuzz::printed(&conf).expect("what was printed is a configuration");
    let outcome = Config::read(&conf, &cni_args);
    assert_eq!(shown(&outcome), shown(&Config::read(&again, &cni_args)));
    match outcome {
        Ok(config) => {
            assert_is_of_network(&conf, &config.directory);
            assert_hands_out_its_own(&config);
        }
        Err(error) => fuzz::assert_reportable(&error),
    }
    if let Ok(Some(directory)) = config::directory_if_usable(&conf) {
        assert_is_of_network(&conf, &directory);
    }
});

fn shown(outcome: &Result<Config>) -> String {
    match outcome {
        Ok(config) => format!("{config:?}"),
        // The place in the text that an error names is another one when it is printed.
        Err(error) => error.code.0.to_string(),
    }
}

fn assert_is_of_network(conf: &ConfArgs, directory: &Path) {
    assert!(directory.is_absolute());
    assert!(directory.ends_with(&conf.network));
}

fn assert_hands_out_its_own(config: &Config) {
    let sets = config.sources.configured();
    for (index, set) in sets.iter().enumerate() {
        assert!(
            sets.iter()
                .skip(index + 1)
                .all(|other| !set.overlaps(other))
        );
        assert!(
            set.ranges()
                .iter()
                .all(|range| range.contains(range.first()))
        );
    }
    let mut state = State::default();
    // A second one, too: what has been handed out is not handed out again.
    for _ in 0..2 {
        let Ok(choices) = choose(sets, &config.requested, &state) else {
            return;
        };
        assert_eq!(choices.len(), sets.len());
        for (choice, set) in choices.iter().zip(sets) {
            assert_free(choice.address, set, &state);
        }
        state.last_reserved = choices.iter().map(|choice| Some(choice.address)).collect();
        let addresses = choices.iter().map(|choice| choice.address);
        addresses.for_each(|address| state.taken.insert(address));
    }
}

fn assert_free(address: std::net::IpAddr, set: &RangeSet, state: &State) {
    let range = set.range_for(address).expect("it is of the set");
    assert_ne!(address, range.gateway());
    assert!(!range.excludes(address));
    assert!(!state.taken.contains(address));
}
