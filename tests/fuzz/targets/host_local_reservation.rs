//! host-local's address files: the first line is the name of a file, the rest its content.
//! Whatever they are, an address whose file is there is not handed out, a file that names
//! another container stays as it is, and no file outside of the directory is touched.
#![no_main]

use std::fs;
use std::path::Path;

use common::cni::identifier::is_identifier;
use host_local_ipam::allocation::Allocation;
use host_local_ipam::boot::Boot;
use host_local_ipam::config::Config;
use host_local_ipam::container::Container;
use host_local_ipam::reservation::{Applicant, Holder, Owner, Reservation};
use host_local_ipam::store::Store;
use libfuzzer_sys::fuzz_target;

const CONF: &[u8] = br#"{"cniVersion": "1.0.0", "name": "n", "ipam":
    {"ranges": [[{"subnet": "10.0.0.0/29"}], [{"subnet": "2001:db8::/125"}]]}}"#;

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n');
    let (name, content) = match end {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (&b"10.0.0.2"[..], data),
    };
    let name = String::from_utf8_lossy(name).into_owned();
    let directory = fuzz::empty_directory();
    let is_file_name = !name.is_empty() && name.len() < 256 && !name.contains(['/', '\0']);
    let path = directory.join(&name);
    if !is_file_name || fs::write(&path, content).is_err() {
        assert!(Reservation::read(&directory, &name).is_none());
        return;
    }
    let found = Reservation::read(&directory, &name);
    if let Some(reservation) = &found {
        assert_eq!(reservation.path, path);
        assert_names_a_container(&reservation.holder);
    }
    add(&directory);
    match found.map(|reservation| (reservation.address, reservation.holder)) {
        // That of a plugin that was killed, which is reclaimed.
        Some((_, Holder::Nobody)) => {}
        Some(_) => assert_eq!(fs::read(&path).expect("it is still there"), content),
        None => {}
    }
});

fn assert_names_a_container(holder: &Holder) {
    let Holder::Owner(owner) = holder else {
        return;
    };
    assert!(is_identifier(&owner.container_id));
    let elsewhere = fuzz::directory();
    fs::write(elsewhere.join("10.0.0.2"), owner.content()).expect("it can be written");
    let again = Reservation::read(elsewhere, "10.0.0.2").expect("it is a reservation");
    assert_eq!(again.holder, *holder);
}

fn add(directory: &Path) {
    let before = addresses(directory);
    let conf = fuzz::conf(CONF).expect("it is a configuration");
    let sets = Config::read(&conf, "").expect("it is valid").sources;
    // Its directory is a store already, whatever the file has become.
    fs::write(directory.join("last_reserved_ip.0"), "").expect("it can be written");
    let store = Store::create(directory).expect("the store is ours");
    let boot = Boot::of(directory).expect("there is /proc");
    let applicant = Applicant {
        owner: Owner {
            container_id: "new".into(),
            ifname: "net1".into(),
        },
        container: Container::unseen(&boot.machine),
    };
    let choices = Allocation {
        store: &store,
        applicant: &applicant,
        boot,
        range_sets: sets.configured(),
        requested: &[],
    }
    .run();
    for choice in choices.iter().flatten() {
        let path = directory.join(choice.address.to_string());
        assert_eq!(fs::read(path).expect("it is reserved"), b"new\r\nnet1");
        assert!(
            !before.contains(&choice.address),
            "{} was taken",
            choice.address
        );
    }
}

/// The addresses that are taken: by a file with something in it.
fn addresses(directory: &Path) -> Vec<std::net::IpAddr> {
    let entries = fs::read_dir(directory).expect("it can be listed").flatten();
    let taken = entries.filter(|entry| entry.metadata().is_ok_and(|file| file.len() > 0));
    let names = taken.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter_map(|name| common::address::parse_address(&name).ok())
        .collect()
}
