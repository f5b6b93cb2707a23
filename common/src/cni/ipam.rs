//! Delegation: finds the address management plugin that a configuration names and
//! executes it as a runtime would. Its answers pass up unchanged.

pub mod answer;

use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::Duration;

use crate::cni::args::{CmdArgs, Command, ConfArgs, missing_variables};
use crate::cni::config::NetConf;
use crate::cni::process;
use crate::cni::result::AddResult;
use crate::error::{Error, Result};
use crate::say;

/// How long a delegate may take. The slowest plugin known (whereabouts) gives
/// itself two minutes for an ADD, and a kubelet waits for four.
const DEADLINE: Duration = Duration::from_secs(130);

/// An address management plugin, found in `CNI_PATH`.
#[derive(Debug)]
pub struct IpamPlugin {
    path: PathBuf,
    name: String,
}

impl IpamPlugin {
    /// Finds the executable `name` in the directories of `CNI_PATH`.
    ///
    /// # Errors
    /// Code 7 when `name` is no plain file name (it must not lead out of these
    /// directories), 4 when `CNI_PATH` is not set, 999 when no directory has it;
    /// with the words of libcni.
    pub fn find(name: &str, cni_path: &str) -> Result<Self> {
        if name.is_empty() {
            return Err(Error::config("no plugin name provided"));
        }
        if name.contains('/') || name.contains('\0') || name == "." || name == ".." {
            return Err(Error::config(format!("invalid plugin name: {name}")));
        }
        if cni_path.is_empty() {
            return Err(missing_variables(&["CNI_PATH"]));
        }
        let directories: Vec<&str> = cni_path.split(':').filter(|d| !d.is_empty()).collect();
        let candidates = directories
            .iter()
            .map(|directory| Path::new(directory).join(name));
        match candidates.into_iter().find(|path| path.is_file()) {
            Some(path) => Ok(Self {
                path,
                name: name.to_owned(),
            }),
            None => Err(Error::internal(format!(
                "failed to find plugin {name:?} in path [{}]",
                directories.join(" ")
            ))),
        }
    }

    /// The plugin that a configuration names, or nothing when it names none.
    ///
    /// # Errors
    /// As for [`IpamPlugin::find`].
    pub fn find_configured(name: &str, cni_path: &str) -> Result<Option<Self>> {
        match name {
            "" => Ok(None),
            name => Self::find(name, cni_path).map(Some),
        }
    }

    /// Passes GC on to the plugin that the configuration names, if it names one.
    ///
    /// # Errors
    /// As for [`IpamPlugin::forward`].
    pub fn forward_gc(conf: &ConfArgs) -> Result<()> {
        // GC must not depend on the rest of the configuration.
        let keys = conf.document.read::<NetConf>("failed to load netconf");
        let name = keys.map(|keys| keys.ipam.plugin).unwrap_or_default();
        match Self::find_configured(&name, &conf.path)? {
            Some(ipam) => ipam.forward(Command::Gc, conf),
            None => Ok(()),
        }
    }

    /// Asks for addresses. The caller executes [`IpamPlugin::del`] when this fails
    /// (CNI specification, section 4): the delegate may have reserved something.
    ///
    /// # Errors
    /// The delegate's own error, unchanged; code 6 when its result cannot be read,
    /// 999 when there is not an address in it or no answer at all.
    pub fn add(&self, args: &CmdArgs) -> Result<AddResult> {
        let stdout = self.execute_for(Command::Add, args, &args.conf.stdin)?;
        let result = answer::result(&stdout, args.conf.version)?;
        if result.ips.is_empty() {
            return Err(Error::internal("IPAM plugin returned missing IP config"));
        }
        Ok(result)
    }

    /// Gives the addresses back. `stdin` is what the delegate reads, which DEL may
    /// have completed from the attachment's record.
    ///
    /// # Errors
    /// As for [`IpamPlugin::add`].
    pub fn del(&self, args: &CmdArgs, stdin: &[u8]) -> Result<()> {
        self.execute_for(Command::Del, args, stdin).map(drop)
    }

    /// Asks whether the addresses are still reserved.
    ///
    /// # Errors
    /// As for [`IpamPlugin::add`].
    pub fn check(&self, args: &CmdArgs) -> Result<()> {
        self.execute_for(Command::Check, args, &args.conf.stdin)
            .map(drop)
    }

    /// Passes STATUS or GC on.
    ///
    /// # Errors
    /// As for [`IpamPlugin::add`].
    pub fn forward(&self, command: Command, conf: &ConfArgs) -> Result<()> {
        let mut process = self.process(command);
        process.env("CNI_PATH", &conf.path);
        self.execute(process, &conf.stdin).map(drop)
    }

    fn execute_for(&self, command: Command, args: &CmdArgs, stdin: &[u8]) -> Result<Vec<u8>> {
        let mut process = self.process(command);
        process
            .env("CNI_CONTAINERID", args.container_id.as_str())
            .env("CNI_NETNS", &args.netns)
            .env("CNI_IFNAME", args.ifname.as_str())
            .env("CNI_ARGS", &args.cni_args)
            .env("CNI_PATH", &args.conf.path);
        self.execute(process, stdin)
    }

    fn process(&self, command: Command) -> Process {
        let mut process = Process::new(&self.path);
        process.env("CNI_COMMAND", command.as_str());
        process
    }

    /// The delegate's stdout when it succeeds, its error when it does not. What a
    /// successful delegate wrote to stderr goes to ours.
    fn execute(&self, process: Process, stdin: &[u8]) -> Result<Vec<u8>> {
        let output = process::run(process, stdin, DEADLINE).map_err(|cause| {
            Error::internal(format!("failed to execute IPAM plugin {:?}", self.name))
                .because(&cause)
        })?;
        if !output.status.success() {
            return Err(answer::error(&output));
        }
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            say!("{line}");
        }
        Ok(output.stdout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn a_plugin_name_cannot_lead_out_of_its_directories() {
        for wrong in ["", ".", "..", "../sh", "/bin/sh", "a/b"] {
            assert_eq!(
                IpamPlugin::find(wrong, "/bin").unwrap_err().code,
                ErrorCode::NETWORK_CONFIG,
                "{wrong}"
            );
        }
        assert_eq!(
            IpamPlugin::find("sh", "").unwrap_err().msg,
            "required env variables [CNI_PATH] missing"
        );
        assert_eq!(
            IpamPlugin::find("no-such-plugin", "/a:/b").unwrap_err().msg,
            "failed to find plugin \"no-such-plugin\" in path [/a /b]"
        );
    }
}
