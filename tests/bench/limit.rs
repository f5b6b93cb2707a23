//! A control group whose processes together get a part of a CPU, with either version
//! of control groups.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::Call;

const ROOT: &str = "/sys/fs/cgroup";
/// The kernel grants time for this long at once, in microseconds, as for a container.
const PERIOD: u32 = 100_000;

/// The group; it ends with this value.
#[derive(Debug)]
pub struct Limit {
    /// One in version 2, one for each controller in version 1.
    directories: Vec<PathBuf>,
    /// What a process writes itself into to become a member. This and the next one are
    /// open because a node's processes do not see the directories.
    members: Vec<File>,
    usage: File,
    is_v2: bool,
}

impl Limit {
    /// A group that gets so many thousandths of a CPU.
    pub fn of_millicpus(millicpus: u32) -> Self {
        let name = format!("bench-{millicpus}m-{}", std::process::id());
        let root = Path::new(ROOT);
        let quota = PERIOD / 1000 * millicpus;
        let is_v2 = root.join("cgroup.controllers").exists();
        let directories = if is_v2 {
            write(&root.join("cgroup.subtree_control"), "+cpu");
            vec![root.join(name)]
        } else {
            vec![
                root.join("cpu").join(&name),
                root.join("cpuacct").join(&name),
            ]
        };
        for directory in &directories {
            fs::create_dir_all(directory).unwrap_or_else(|cause| {
                panic!("cannot make the control group {directory:?}: {cause}; run this as root")
            });
        }
        let usage = if is_v2 {
            write(
                &directories[0].join("cpu.max"),
                &format!("{quota} {PERIOD}"),
            );
            directories[0].join("cpu.stat")
        } else {
            write(
                &directories[0].join("cpu.cfs_period_us"),
                &PERIOD.to_string(),
            );
            write(&directories[0].join("cpu.cfs_quota_us"), &quota.to_string());
            directories[1].join("cpuacct.usage")
        };
        let open = |directory: &PathBuf| File::create(directory.join("cgroup.procs"));
        let members = directories.iter().map(open);
        let members = members.map(|file| file.expect("a control group has members"));
        Self {
            members: members.collect(),
            directories,
            usage: File::open(usage).expect("a control group has figures"),
            is_v2,
        }
    }

    /// The process of a call, which enters the group before it executes the plugin.
    pub fn process(&self, call: &Call) -> Command {
        let plugin = call.process();
        let own = std::process::id();
        let enter = |file: &File| format!("echo 0 >/proc/{own}/fd/{} && ", file.as_raw_fd());
        let script: String = self.members.iter().map(enter).collect();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &(script + "exec \"$0\"")])
            .arg(plugin.get_program());
        let environment = plugin
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)));
        command.env_clear().envs(environment);
        command
    }

    /// The CPU time that the group has used.
    pub fn used(&self) -> Duration {
        let mut bytes = [0; 4096];
        let length = self
            .usage
            .read_at(&mut bytes, 0)
            .expect("it can be read again");
        let text = String::from_utf8_lossy(&bytes[..length]);
        let number = |text: &str| text.trim().parse().expect("it is a number");
        if self.is_v2 {
            let mut lines = text.lines();
            let usage = lines.find_map(|line| line.strip_prefix("usage_usec "));
            Duration::from_micros(number(usage.expect("there is a usage")))
        } else {
            Duration::from_nanos(number(&text))
        }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        for directory in &self.directories {
            // A group that cannot be removed is in nobody's way.
            fs::remove_dir(directory).ok();
        }
    }
}

fn write(path: &Path, value: &str) {
    fs::write(path, value).unwrap_or_else(|cause| {
        panic!("cannot write {value} to {path:?}: {cause}; CPU time must be limitable here")
    });
}
