//! What the targets share: a heap that cannot grow without end, and calls as a runtime
//! would make them. What must hold stands in the targets.

use std::alloc::System;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cap::Cap;
use common::cni::args::{CmdArgs, ConfArgs, Delegates};
use common::cni::config::Document;
use common::cni::identifier::{ContainerId, is_identifier};
use common::cni::version::CniVersion;
use common::error::Error;
use common::ifname::IfName;
use serde_json::Value;
use tempfile::TempDir;

/// Inputs have 4 KiB. Whoever needs more memory than this for one can be made to need any
/// amount. A panic needs some for its backtrace.
const HEAP_LIMIT: usize = 256 << 20;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, HEAP_LIMIT);

/// The configuration that these bytes are, as the frame of the plugins hands it over.
pub fn conf(stdin: &[u8]) -> Option<ConfArgs> {
    let document = Document::parse(stdin).ok()?;
    let text = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or("");
    let network = Some(text("name")).filter(|name| is_identifier(name));
    Some(ConfArgs {
        network: network.unwrap_or("network").to_owned(),
        delegates: Delegates::in_path("/nonexistent"),
        version: CniVersion::from_text(text("cniVersion")).unwrap_or(CniVersion::LATEST),
        stdin: stdin.to_vec(),
        document,
    })
}

/// The same configuration, printed again.
pub fn printed(conf: &ConfArgs) -> Option<ConfArgs> {
    let text = String::from_utf8_lossy(&conf.stdin);
    let value: Value = serde_json::from_str(&text).expect("it was parsed before");
    self::conf(value.to_string().as_bytes())
}

/// An ADD with a configuration.
pub fn add(conf: ConfArgs, cni_args: &str) -> CmdArgs {
    CmdArgs {
        container_id: ContainerId::new("container").expect("it is one"),
        ifname: IfName::new("net1").expect("it is one"),
        netns: "/run/netns/container".to_owned(),
        cni_args: cni_args.to_owned(),
        conf,
    }
}

/// Whoever is refused is told so in a document with a code.
pub fn assert_reportable(error: &Error) {
    let text = error.to_json("1.0.0");
    let document: Value = serde_json::from_str(&text).expect("an error is a JSON document");
    assert_eq!(document["code"].as_u64(), Some(error.code.0.into()));
    assert_eq!(document["msg"], error.msg.as_str());
    assert!(!error.msg.is_empty(), "{text}");
}

/// A directory of this process.
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<TempDir> = OnceLock::new();
    let made = || tempfile::tempdir().expect("a directory can be made");
    DIRECTORY.get_or_init(made).path()
}

/// An empty directory of this process, for one input.
pub fn empty_directory() -> PathBuf {
    let path = directory().join("input");
    fs::remove_dir_all(&path).ok();
    fs::create_dir(&path).expect("a directory can be made");
    path
}

/// A file with this content.
pub fn file(content: &[u8]) -> PathBuf {
    let path = directory().join("file");
    fs::write(&path, content).expect("a file can be written");
    path
}
