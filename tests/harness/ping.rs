//! Whether packets arrive, according to `ping`.

use crate::{Namespace, wait_until};

impl Namespace {
    /// Whether the address answers at least one of three pings, which are sent from `source`
    /// or from the address that the kernel chooses.
    pub fn pings(&self, address: &str, source: Option<&str>) -> bool {
        let source: Vec<&str> = source.iter().flat_map(|source| ["-I", source]).collect();
        let three = ["-n", "-c", "3", "-i", "0.2", "-W", "1"];
        let arguments = [&three[..], &source, &[address]].concat();
        let pinged = self.try_tool("ping", &arguments);
        let said = String::from_utf8_lossy(&pinged.stderr).into_owned();
        // 1 means no answer; 2 means that the ping could not be sent, which proves nothing.
        let code = pinged.status.code();
        assert!(matches!(code, Some(0 | 1)), "ping {arguments:?}: {said}");
        pinged.status.success()
    }

    /// Waits until the address answers.
    #[track_caller]
    pub fn await_ping(&self, address: &str, source: Option<&str>) {
        wait_until(&format!("{address} answers"), || {
            self.pings(address, source)
        });
    }
}
