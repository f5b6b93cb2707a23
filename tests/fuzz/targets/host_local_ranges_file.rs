//! host-local's `rangesFile`: whatever is in it, ranges of the file mean what they mean in
//! the configuration.
#![no_main]

use common::error::{ErrorCode, Result};
use host_local_ipam::config::Config;
use host_local_ipam::range::RangeSet;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    let path = fuzz::file(data);
    let from_file = sets(&json!({"rangesFile": path}));
    if let Err(error) = &from_file {
        assert_eq!(error.code, ErrorCode::NETWORK_CONFIG);
        assert!(error.msg.starts_with("rangesFile "), "{error}");
    }
    let Ok(document) = serde_json::from_slice::<Value>(data) else {
        assert!(from_file.is_err());
        return;
    };
    // The keys of the file alone; `subnet` beside `ranges` is the configuration's.
    let ranges = document.as_object().and_then(|document| {
        let mut keys = document.iter().rev();
        keys.find(|(key, _)| key.eq_ignore_ascii_case("ranges"))
    });
    let Some((_, ranges)) = ranges else {
        assert!(from_file.is_err());
        return;
    };
    let from_configuration = sets(&json!({"ranges": ranges}));
    assert_eq!(shown(from_file), shown(from_configuration));
});

fn sets(ipam: &Value) -> Result<Vec<RangeSet>> {
    let conf = json!({"cniVersion": "1.0.0", "name": "n", "ipam": ipam}).to_string();
    let conf = fuzz::conf(conf.as_bytes()).expect("it is a configuration");
    Config::read(&conf, "")?.sources.read()
}

fn shown(sets: Result<Vec<RangeSet>>) -> Option<String> {
    sets.ok().map(|sets| format!("{sets:?}"))
}
