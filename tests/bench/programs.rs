//! The files of the plugins.

use std::path::Path;

use harness::{go_plugin, our_plugin};

use crate::enis::as_built;
use crate::figure::{Figure, Report};
use crate::options::Effort;

/// What a plugin should have at most, in megabytes, and what eni-sync should.
const PLUGIN: f64 = 1.5;

const ENI_SYNC: f64 = 8.0;

pub fn size(_: &Effort) -> Report {
    let plugin = |name: &str| {
        Figure::new(format!("{name} file"), "MB", megabytes(&our_plugin(name)))
            .beside("Go", megabytes(&go_plugin(name)))
            .at_most(PLUGIN)
    };
    let plugins = ["host-local", "host-device", "ipvlan"].map(plugin);
    let eni_sync = megabytes(&our_plugin("eni-sync"));
    let eni_sync = Figure::new("eni-sync file", "MB", eni_sync).at_most(ENI_SYNC);
    Report::of(plugins.into_iter().chain([as_built(eni_sync)]))
}

#[expect(clippy::cast_precision_loss, reason = "files are smaller")]
fn megabytes(path: &Path) -> f64 {
    let bytes = path.metadata().expect("the plugin is there").len();
    bytes as f64 / f64::from(1 << 20)
}
