//! What has been said already. The agent comes to the same finding at every look, and
//! says it when it is new.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use common::say;

/// How many texts are remembered. With more of them, what was said is said again.
const MOST: usize = 1024;

static TOLD: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// Says something to stderr, unless this process has said it before.
pub(crate) fn once(text: &str) {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let told = told.get_or_insert_default();
    if told.len() >= MOST {
        told.clear();
    }
    if told.insert(text.to_owned()) {
        say!("{text}");
    }
}
