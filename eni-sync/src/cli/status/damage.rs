//! The unreadable files of the ledger in the status.

use super::{Address, EniStatus, PrefixStatus};
use crate::ledger::{About, Damage};

/// Adds the unreadable files of the ledger. Unreadable addresses and prefixes replace those
/// that are only on the ENI.
pub(super) fn add_damage(status: &mut EniStatus, damage: Vec<Damage>) {
    for Damage { about, error } in damage {
        let (state, why) = ("unreadable".to_owned(), error.to_string());
        match about {
            About::Address(address) => {
                status.addresses.retain(|known| known.address != address);
                status.addresses.push(Address {
                    address,
                    state,
                    since: None,
                    release_after: None,
                    owner: None,
                    refusal: Some(why),
                    differs: None,
                });
            }
            About::Prefix(prefix) => {
                status.prefixes.retain(|known| known.prefix != prefix);
                status.prefixes.push(PrefixStatus {
                    prefix,
                    state,
                    since: None,
                    release_after: None,
                    taken: 0,
                    ranges_file: None,
                    refusal: Some(why),
                    differs: None,
                });
            }
            About::NoPrefix | About::Asked | About::Unheard => status.damaged.push(why),
        }
    }
    status.addresses.sort_by_key(|address| address.address);
}
