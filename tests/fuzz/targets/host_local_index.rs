//! host-local's `.reservations.index`, which is a hint: whatever it says, with sums that
//! are right or wrong, an ADD hands out no address that has a file and changes none, and a
//! DEL removes what is its own and nothing else.
//!
//! The first byte says what the rest is: a whole index, or changes to a good one, of which
//! the sums are made right again.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::files::words::{bytes, parse, sum};
use host_local_ipam::allocation::Allocation;
use host_local_ipam::boot::Boot;
use host_local_ipam::config::Config;
use host_local_ipam::container::Container;
use host_local_ipam::reservation::{Applicant, Owner};
use host_local_ipam::store::Store;
use host_local_ipam::survey::Survey;
use libfuzzer_sys::fuzz_target;

const CONF: &[u8] = br#"{"cniVersion": "1.0.0", "name": "n", "ipam":
    {"ranges": [[{"subnet": "10.0.0.0/27"}]]}}"#;
const INDEX: &str = ".reservations.index";
/// More than what an index is made for.
const CONTAINERS: usize = 10;
/// Words of a page, and where in the first one the number of front pages and the seed are.
const PAGE: usize = 512;
const SEED: usize = 8;
const FRONT: usize = 9;
const BLOCKS: usize = 12;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let directory = with_index();
    let path = directory.join(INDEX);
    match kind {
        0 => fs::write(&path, rest).expect("it can be written"),
        _ => change(&path, rest, kind % 2 == 1),
    }
    let before = files(&directory);
    add(&directory, &before);
    del(&directory, &owner(0));
});

/// A directory with reservations and their index, made anew for every input.
fn with_index() -> PathBuf {
    let directory = fuzz::empty_directory();
    for number in 1..CONTAINERS {
        let path = directory.join(format!("10.0.0.{}", number + 1));
        fs::write(path, owner(number).content()).expect("it can be written");
    }
    allocate(&directory, &owner(0)).expect("there is room");
    assert!(directory.join(INDEX).exists());
    directory
}

fn owner(number: usize) -> Owner {
    Owner {
        container_id: format!("c{number}"),
        ifname: "net1".into(),
    }
}

/// Changes words of the index: each change is a place of two bytes and a value of eight.
fn change(path: &Path, changes: &[u8], is_summed: bool) {
    let mut words = parse(&fs::read(path).expect("there is an index"));
    for change in changes.chunks_exact(10) {
        let (at, value) = change.split_at(2);
        let at = usize::from(u16::from_le_bytes([at[0], at[1]])) % words.len();
        words[at] = u64::from_le_bytes(value.try_into().expect("it has eight bytes"));
    }
    if is_summed {
        sum_up(&mut words);
    }
    fs::write(path, bytes(&words)).expect("it can be written");
}

/// Makes all sums right, as far as header and pages are where the header says.
fn sum_up(words: &mut [u64]) {
    let length = 13 + usize::try_from(words[BLOCKS]).unwrap_or(0).min(PAGE) * 3;
    let length = length.min(words.len());
    words[1] = sum(words[0], &words[2..length]);
    let (seed, front) = (words[SEED], usize::try_from(words[FRONT]).unwrap_or(0));
    let pages = words.chunks_exact_mut(PAGE).skip(front.max(1));
    for (number, page) in pages.enumerate() {
        page[0] = sum(seed ^ number as u64, &page[1..]);
    }
}

type Files = BTreeMap<String, Vec<u8>>;

fn files(directory: &Path) -> Files {
    let entries = fs::read_dir(directory).expect("it can be listed").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let addresses = names.filter(|name| name.starts_with("10."));
    addresses
        .map(|name| {
            (
                name.clone(),
                fs::read(directory.join(name)).expect("it can be read"),
            )
        })
        .collect()
}

fn allocate(directory: &Path, owner: &Owner) -> Result<Vec<String>, common::error::Error> {
    let conf = fuzz::conf(CONF).expect("it is a configuration");
    let sources = Config::read(&conf, "").expect("it is valid").sources;
    let store = Store::create(directory)?;
    let boot = Boot::of(directory)?;
    let applicant = Applicant {
        owner: owner.clone(),
        container: Container::unseen(&boot.machine),
    };
    let choices = Allocation {
        store: &store,
        applicant: &applicant,
        boot,
        range_sets: sources.configured(),
        requested: &[],
    }
    .run()?;
    Ok(choices
        .iter()
        .map(|choice| choice.address.to_string())
        .collect())
}

fn add(directory: &Path, before: &Files) {
    let outcome = allocate(directory, &owner(CONTAINERS));
    let mut expected = before.clone();
    for address in outcome.iter().flatten() {
        let content = owner(CONTAINERS).content().into_bytes();
        assert_eq!(
            expected.insert(address.clone(), content),
            None,
            "{address} was taken"
        );
    }
    assert_eq!(files(directory), expected);
}

/// As the plugin's own DEL does it.
fn del(directory: &Path, owner: &Owner) {
    let mut expected = files(directory);
    let store = Store::open(directory)
        .expect("it is ours")
        .expect("it exists");
    let survey = Survey::of_owner(&store, owner).expect("it can be read");
    for reservation in &survey.relevant {
        let name = reservation.address.to_string();
        assert_eq!(expected.remove(&name), Some(owner.content().into_bytes()));
    }
    survey.release(&store).expect("they can be removed");
    assert_eq!(files(directory), expected);
}
