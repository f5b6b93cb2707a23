//! Whether host-local has an address in any of its stores: its container may be one that
//! nobody sees, so what is reserved is not what others have left.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use common::error::{Error, Result};
use common::files::file;

use crate::agent::configuration::DATA_DIR;

/// The file of the reservation of `address`, if there is one.
///
/// # Errors
/// Code 5 naming what cannot be listed: then nobody knows.
pub(super) fn reservation(address: IpAddr) -> Result<Option<PathBuf>> {
    let failed = |cause| {
        Error::io(
            format!("failed to look for {address} in {DATA_DIR}"),
            &cause,
        )
    };
    for network in file::list(Path::new(DATA_DIR)).map_err(failed)? {
        let path = network.join(address.to_string());
        match fs::symlink_metadata(&path) {
            Ok(_) => return Ok(Some(path)),
            Err(cause) if file::is_missing(&cause) => {}
            Err(cause) => return Err(failed(cause)),
        }
    }
    Ok(None)
}
