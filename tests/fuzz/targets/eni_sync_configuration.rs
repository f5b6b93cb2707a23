//! What eni-sync is told: these bytes as the configuration of a network, and as that of
//! an agent. What is accepted can be lived by: times have an end, and pools are small.
#![no_main]

#[path = "../../../eni-sync/src"]
#[allow(
    dead_code,
    unused_imports,
    reason = "a target is made of a part of the program"
)]
mod program {
    pub mod agent {
        pub mod configuration;
    }
    pub mod deadline;
    pub mod ledger;
    pub mod plugin {
        pub mod config;
    }
    pub mod provision {
        pub mod wanted;
    }
    pub mod random;
    pub mod registration {
        pub mod prefixes {
            pub mod kept;
            pub mod stock;
        }
        pub mod rules;
    }
    pub mod vpc {
        pub mod ec2 {
            mod types;
            pub(crate) use self::types::{Choice, Description, Family};
        }
        pub mod eni;
    }
}
pub use program::{agent, deadline, ledger, plugin, provision, random, registration, vpc};

use std::time::{Duration, Instant};

use agent::configuration::{Configuration, Pool};
use common::cni::identifier::is_identifier;

use libfuzzer_sys::fuzz_target;
use plugin::config::Config;
use vpc::ec2::Family;

const A_DAY: Duration = Duration::from_secs(86_400);

fuzz_target!(|data: &[u8]| {
    if let Some(conf) = fuzz::conf(data) {
        let again = fuzz::printed(&conf).expect("what was printed is a configuration");
        let outcome = Config::parse(&conf.document);
        assert_eq!(outcome.is_ok(), Config::parse(&again.document).is_ok());
        match outcome {
            Ok(config) => assert!(config.cooldown <= A_DAY),
            Err(error) => fuzz::assert_reportable(&error),
        }
    }
    match Configuration::read(&fuzz::file(data)) {
        Ok(configuration) => assert_can_be_lived_by(&configuration),
        Err(error) => fuzz::assert_reportable(&error),
    }
});

fn assert_can_be_lived_by(configuration: &Configuration) {
    let interval = configuration.reconcile_interval();
    assert!(interval > Duration::ZERO);
    assert!(interval <= configuration.longest_interval());
    // As the agent counts.
    assert!(Instant::now().checked_add(interval).is_some());
    assert!(
        Instant::now()
            .checked_add(configuration.longest_interval() * 3)
            .is_some()
    );
    assert!(Instant::now().checked_add(configuration.grace()).is_some());
    for network in configuration.networks.listed() {
        assert!(is_identifier(&network.name));
        assert!(network.directory().is_absolute() && network.directory().ends_with(&network.name));
    }
    configuration.pools.iter().for_each(assert_is_small);
}

fn assert_is_small(pool: &Pool) {
    assert!(is_identifier(&pool.name) && pool.ranges_file.is_absolute());
    let marks = pool.watermarks();
    assert!(marks.low <= marks.high);
    for family in Family::ALL {
        let first: Vec<_> = pool.addresses(family).take(3).collect();
        // One of prefixes has no addresses of its own.
        match pool.kept() {
            Some(kept) => assert!(first.is_empty() && kept.validate().is_ok() && !kept.is_none()),
            None => assert_eq!(pool.has(family), !first.is_empty()),
        }
        assert!(
            first
                .iter()
                .all(|address| pool.contains(*address) && Family::of(*address) == family)
        );
        assert!(pool.addresses(family).count() <= pool.ranges.len() << 16);
    }
}
