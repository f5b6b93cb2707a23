//! The device-info file that Multus asks for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use harness::FakeSys;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::selectors::{PCI, with_pci_device};
use super::{Fixture, plain, with};

/// What the file must contain.
const DOCUMENT: &str = r#"{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:00:1e.0"}}"#;

/// A node with a PCI device, and a place for the file below a directory that is missing.
struct Multus {
    fixture: Fixture,
    _sys: FakeSys,
    directory: TempDir,
}

impl Multus {
    fn new(driver: &str) -> Self {
        let (fixture, sys) = with_pci_device(driver);
        Self {
            fixture,
            _sys: sys,
            directory: tempfile::tempdir().expect("a temporary directory can be made"),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory
            .path()
            .join("devinfo/cni/default-lan-c1_net1")
    }

    fn conf(&self, keys: &Value) -> Value {
        let base = json!({
            "ipam": {"type": "fake-ipam"},
            "capabilities": {"CNIDeviceInfoFile": true},
            "runtimeConfig": {"CNIDeviceInfoFile": self.path()},
        });
        plain(&with(&base, keys))
    }

    /// Every name in the directory of the file.
    fn names(&self) -> Vec<String> {
        let directory = self.path();
        let entries = fs::read_dir(directory.parent().expect("it has one"));
        let name = |e: fs::DirEntry| e.file_name().to_string_lossy().into_owned();
        entries.into_iter().flatten().flatten().map(name).collect()
    }
}

#[test]
fn the_file_describes_the_device_while_it_is_attached() {
    for driver in ["ena", "vfio-pci"] {
        let multus = Multus::new(driver);
        let conf = multus.conf(&json!({"pciBusID": PCI}));
        multus.fixture.add(&conf);
        let text = fs::read_to_string(multus.path()).expect("ADD has written it");
        assert_eq!(text, DOCUMENT);
        let mode = |path: &std::path::Path| fs::metadata(path).expect("it exists").permissions();
        assert_eq!(mode(&multus.path()).mode() & 0o777, 0o444);
        let parent = multus.path().parent().expect("it has one").to_owned();
        assert_eq!(mode(&parent).mode() & 0o777, 0o755);
        assert_eq!(multus.names().len(), 1);

        // A stripped configuration does not name the file any more.
        multus.fixture.del(&plain(&json!({})));
        assert!(multus.names().is_empty(), "{driver}");
        assert!(multus.fixture.records().is_empty());
    }
}

#[test]
fn a_file_that_the_device_plugin_has_written_is_left_alone() {
    let multus = Multus::new("ena");
    let parent = multus.path().parent().expect("it has one").to_owned();
    fs::create_dir_all(parent).expect("it is writable");
    // Even if it says the same.
    for text in ["{\"type\":\"vdpa\"}", DOCUMENT] {
        fs::write(multus.path(), text).expect("it is writable");
        let conf = multus.conf(&json!({"pciBusID": PCI}));
        multus.fixture.add(&conf);
        multus.fixture.del(&conf);
        let found = fs::read_to_string(multus.path()).expect("it is still there");
        assert_eq!(found, text);
    }
}

#[test]
fn a_file_that_was_replaced_meanwhile_is_left_alone() {
    let multus = Multus::new("ena");
    let conf = multus.conf(&json!({"pciBusID": PCI}));
    multus.fixture.add(&conf);
    fs::remove_file(multus.path()).expect("it is there");
    fs::write(multus.path(), "{}").expect("it is writable");
    multus.fixture.del(&conf);
    assert_eq!(
        fs::read_to_string(multus.path()).expect("it is there"),
        "{}"
    );
}

#[test]
fn nothing_is_written_for_a_device_without_a_pci_address() {
    let multus = Multus::new("ena");
    let conf = multus.conf(&json!({"device": "hd0"}));
    multus.fixture.add(&conf);
    assert!(multus.names().is_empty());
    multus.fixture.del(&conf);
}

#[test]
fn a_failed_add_removes_the_file() {
    let multus = Multus::new("ena");
    let before = multus.fixture.state();
    multus
        .fixture
        .ipam
        .fail("ADD", r#"{"code": 11, "msg": "no addresses"}"#);
    let conf = multus.conf(&json!({"pciBusID": PCI}));
    let call = multus.fixture.call("ADD", &conf);
    multus.fixture.node.run(&call).error_code(11);
    assert!(multus.names().is_empty());
    assert_eq!(multus.fixture.state(), before);
}

#[test]
fn a_file_that_cannot_be_written_is_named_and_the_device_returns() {
    let multus = Multus::new("ena");
    let before = multus.fixture.state();
    let runtime = json!({"CNIDeviceInfoFile": "/proc/none/file"});
    let conf = multus.conf(&json!({"pciBusID": PCI, "runtimeConfig": runtime}));
    let call = multus.fixture.call("ADD", &conf);
    let error = multus.fixture.node.run(&call).error_code(5);
    assert_eq!(
        error.msg,
        "failed to write device info file \"/proc/none/file\""
    );
    assert_eq!(multus.fixture.state(), before);
}
