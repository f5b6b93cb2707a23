//! Whether an ADD of a configuration could succeed: for STATUS and `eni-sync doctor`.

use std::path::Path;

use common::cni::args::ConfArgs;
use common::error::{Error, ErrorCode, Result};

use crate::allocator;
use crate::boot::Boot;
use crate::config::Config;
use crate::ended::Examined;
use crate::form;
use crate::range::RangeSet;
use crate::reservation::describe_holders;
use crate::store::Store;
use crate::survey::Survey;
use crate::taken::Taken;

/// The configuration, and its present range sets, including those of `rangesFile`.
///
/// # Errors
/// Code 6 or 7 naming the error in the configuration or in the file.
pub fn examine(conf: &ConfArgs) -> Result<(Config, Vec<RangeSet>)> {
    let config = Config::read(conf, "")?;
    let range_sets = config.sources.read()?;
    Ok((config, range_sets))
}

/// Whether an ADD of this configuration could succeed now.
///
/// # Errors
/// Those of [`examine`]; code 50 naming the holders when a range set has no free address.
pub fn status(conf: &ConfArgs) -> Result<()> {
    let (config, range_sets) = examine(conf)?;
    let store = Store::peek(&config.directory)?;
    if store.is_some() {
        form::require_own(&config.directory)?;
    }
    match store {
        Some(store) => check_capacity(&store, &range_sets),
        None => check_free(&range_sets, &Taken::default(), &config.directory),
    }
}

/// Makes sure that every range set has a free address. If it has none according to the
/// index, the files are read. Addresses that an ADD would reclaim count as free.
fn check_capacity(store: &Store, range_sets: &[RangeSet]) -> Result<()> {
    let directory = store.directory();
    let boot = Boot::of(directory)?;
    let mut survey = Survey::for_allocation(store, None, &boot)?;
    if allocator::first_exhausted(range_sets, &survey.taken).is_none() {
        return Ok(());
    }
    if !survey.is_certain(store) {
        survey = Survey::of_files_for_allocation(store, None, &boot)?;
    }
    let examined = Examined {
        store,
        machine: &boot.machine,
        taken: &survey.taken,
    };
    let exhausted = allocator::first_exhausted(range_sets, &survey.taken);
    match exhausted.map(|set| examined.in_exhausted(set, "")) {
        Some(ended) if !ended.is_empty() => Ok(()),
        _ => check_free(range_sets, &survey.taken, directory),
    }
}

fn check_free(range_sets: &[RangeSet], taken: &Taken, directory: &Path) -> Result<()> {
    let Some(set) = allocator::first_exhausted(range_sets, taken) else {
        return Ok(());
    };
    let error = Error::new(ErrorCode::UNAVAILABLE, allocator::exhausted(set));
    let holders = describe_holders(directory, allocator::taken_after(set, None, taken));
    Err(error.with_details(holders.unwrap_or_default()))
}
