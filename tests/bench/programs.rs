//! The files of the plugins.

use std::path::Path;

use harness::{go_plugin, our_plugin};

use crate::enis::as_built;
use crate::figure::{Figure, Report};
use crate::options::Effort;

/// What the program with all plugins should have at most, in megabytes, and what eni-sync should.
const PLUGINS: f64 = 2.8;

const ENI_SYNC: f64 = 8.5;

pub fn size(_: &Effort) -> Report {
    let of_go = ["host-local", "host-device", "ipvlan"].map(|name| megabytes(&go_plugin(name)));
    let plugins = Figure::new("eni-cni file", "MB", megabytes(&our_plugin("eni-cni")))
        .beside("Go, three files", of_go.iter().sum())
        .at_most(PLUGINS);
    let eni_sync = megabytes(&our_plugin("eni-sync"));
    let eni_sync = Figure::new("eni-sync file", "MB", eni_sync).at_most(ENI_SYNC);
    Report::of([plugins, as_built(eni_sync)])
}

#[expect(clippy::cast_precision_loss, reason = "files are smaller")]
fn megabytes(path: &Path) -> f64 {
    let bytes = path.metadata().expect("the plugin is there").len();
    bytes as f64 / f64::from(1 << 20)
}
