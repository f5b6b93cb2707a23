//! What the plugins write for each other and for later: these bytes as the record of an
//! attachment, with any part of a plugin, and as the inventory of ENIs. What is read is
//! what is printed, and a name in it can be a part of a path.
#![no_main]

use common::attach::inventory::Inventory;
use common::cni::args::Delegates;
use common::records::Attachment;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = serde_json::from_slice::<Attachment<Value>>(data) {
        assert_record(&record);
    }
    if let Ok(inventory) = serde_json::from_slice::<Inventory>(data) {
        assert_inventory(&inventory);
    }
});

fn assert_record(record: &Attachment<Value>) {
    let text = serde_json::to_vec(record).expect("it can be printed");
    let again: Attachment<Value> = serde_json::from_slice(&text).expect("it is a record");
    assert_eq!(again, *record);
    for name in [record.container_id.as_str(), record.ifname.as_str()] {
        assert!(!name.contains(['/', '\0', ':']) && name != ".." && !name.is_empty());
    }
    // Without `/`, it is no path; the search in CNI_PATH refuses others.
    record.ipam_plugin();
    if let Ok(args) = record.del_args(&Delegates::in_path("/opt/cni/bin")) {
        assert_eq!(
            args.conf.document.get("ipam"),
            Some(&record.ipam).filter(|ipam| !ipam.is_null())
        );
        assert_eq!(args.conf.network, record.network);
    }
}

fn assert_inventory(inventory: &Inventory) {
    let text = serde_json::to_vec(inventory).expect("it can be printed");
    let again: Inventory = serde_json::from_slice(&text).expect("it is an inventory");
    assert_eq!(again, *inventory);
    for eni in &inventory.enis {
        assert_eq!(
            inventory.by_mac(&eni.mac).map(|found| &found.mac),
            Some(&eni.mac)
        );
    }
}
