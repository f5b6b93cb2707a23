//! Where processes wait for each other: `attach` begins when it has the lock of who attaches ENIs
//! on its node, which is taken here first.

use std::fs::{self, File};
use std::process::Child;
use std::thread;
use std::time::Duration;

use harness::AwsNode;

const LOCK: &str = ".attach.lock";

/// The locks of all nodes, until they are let go.
pub struct Barrier {
    locks: Vec<File>,
}

impl Barrier {
    pub fn new(nodes: &[AwsNode]) -> Self {
        let locks = nodes.iter().map(lock).collect();
        Self { locks }
    }

    /// Waits until each process has come to the lock of its node.
    pub fn await_all(&self, children: &[Child]) {
        for child in children {
            while !is_there(child) {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Lets all of them begin.
    pub fn open(self) {
        drop(self.locks);
    }
}

fn lock(node: &AwsNode) -> File {
    let directory = node.run_directory().join("eni-cni");
    fs::create_dir_all(&directory).expect("it can be created");
    let file = File::create(directory.join(LOCK)).expect("it can be created");
    file.lock().expect("nobody else has the lock");
    file
}

/// Whether the process has opened the lock, which is the last that it does before it waits.
fn is_there(child: &Child) -> bool {
    let open = fs::read_dir(format!("/proc/{}/fd", child.id()));
    let open = open.expect("it waits for the lock").flatten();
    let mut paths = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    paths.any(|path| path.ends_with(LOCK))
}
