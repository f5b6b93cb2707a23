//! The master and the addresses that the interface gets from the plugin before this one in
//! the chain.

use common::cni::result::AddResult;
use common::error::{Error, Result};

/// The name of the single interface in the result of the plugin before this one: on the host
/// when `sandbox` is empty, otherwise inside the container with that path. An interface
/// without `sandbox` in the result is used in both cases.
///
/// # Errors
/// Code 7 when there is no such interface, or more than one.
pub fn master(prev_result: &AddResult, sandbox: &str) -> Result<String> {
    let names_in = |sandbox: &str| -> Vec<&str> {
        let interfaces = prev_result.interfaces.iter();
        let candidates = interfaces.filter(|i| i.sandbox == sandbox);
        candidates.map(|i| i.name.as_str()).collect()
    };
    let sandbox = match names_in(sandbox).is_empty() {
        true => "",
        false => sandbox,
    };
    let names = names_in(sandbox);
    match names.as_slice() {
        [name] if !name.is_empty() => Ok((*name).to_owned()),
        _ => Err(Error::config(
            "chained master failure. PrevResult lacks a single named interface",
        )
        .with_details(format!("interfaces in {sandbox:?}: {names:?}"))),
    }
}

/// Removes from the result of the plugin before this one, and returns, the addresses that
/// are not on an interface of the container yet, and with them all routes.
pub fn take_addresses(prev_result: &mut AddResult) -> AddResult {
    let in_container: Vec<bool> = prev_result
        .interfaces
        .iter()
        .map(|i| !i.sandbox.is_empty())
        .collect();
    let is_placed =
        |index: Option<usize>| index.is_some_and(|i| in_container.get(i) == Some(&true));
    let (placed, ips): (Vec<_>, Vec<_>) = std::mem::take(&mut prev_result.ips)
        .into_iter()
        .partition(|ip| is_placed(ip.interface));
    prev_result.ips = placed;
    let routes = match ips.is_empty() {
        true => Vec::new(),
        false => std::mem::take(&mut prev_result.routes),
    };
    AddResult {
        ips,
        routes,
        ..AddResult::default()
    }
}
