//! host-device's configuration: what is accepted means the same when it is printed and
//! read again, and no value that becomes a path leads out of its directory.
#![no_main]

use std::path::{Component, Path};

use common::error::Result;
use host_device::config::{Config, DeviceSelector};
use host_device::options::Options;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(conf) = fuzz::conf(data) else {
        return;
    };
    let again = fuzz::printed(&conf).expect("what was printed is a configuration");
    let outcome = Config::parse(&conf);
    assert_eq!(shown(&outcome), shown(&Config::parse(&again)));
    match outcome {
        Ok(config) => {
            assert_selects_a_device(&config.selector);
            assert_describes_a_file(&config.options);
        }
        Err(error) => fuzz::assert_reportable(&error),
    }
});

fn shown(outcome: &Result<Config>) -> String {
    match outcome {
        Ok(config) => format!("{config:?}"),
        // The place in the text that an error names is another one when it is printed.
        Err(error) => error.code.0.to_string(),
    }
}

fn assert_selects_a_device(selector: &DeviceSelector) {
    let is_file_name = |text: &str| !text.is_empty() && !text.contains(['/', '\0']) && text != "..";
    match selector {
        DeviceSelector::Name(name) => assert!(is_file_name(name)),
        DeviceSelector::DeviceId(id) => assert!(is_file_name(id)),
        DeviceSelector::Pci(address) => assert!(is_file_name(address.as_str())),
        DeviceSelector::HwAddr(mac) => {
            assert!(
                mac.split(':')
                    .all(|byte| u8::from_str_radix(byte, 16).is_ok())
            );
        }
        DeviceSelector::KernelPath(path) => {
            let path = Path::new(path);
            assert!(path.starts_with("/sys/devices"));
            assert!(path.components().all(|part| part != Component::ParentDir));
        }
    }
    if let Some(address) = selector.pci_address() {
        assert!(address.directory().starts_with("/sys/bus/pci/devices"));
        assert!(is_file_name(address.as_str()));
    }
}

fn assert_describes_a_file(options: &Options) {
    if let Some(path) = &options.device_info_file {
        assert!(Path::new(path).is_absolute());
    }
}
