//! Delegation: finds the address management plugin that a configuration names and executes it as
//! a runtime would, or calls it directly if its file is this program. Its results and errors are
//! returned unchanged.

pub mod answer;
mod program;

use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::Duration;

use self::program::is_this_program;
use crate::cni::args::{
    BuiltIn, CmdArgs, Command, ConfArgs, Delegates, Environment, missing_variables,
};
use crate::cni::config::NetConf;
use crate::cni::process;
use crate::cni::result::AddResult;
use crate::error::{Error, Result};
use crate::say;

/// How long a delegate may take. The slowest known plugin (whereabouts) limits its ADD to two
/// minutes, and the kubelet waits for four minutes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(130);

/// An address management plugin, found in `CNI_PATH`.
#[derive(Debug)]
pub struct IpamPlugin {
    path: PathBuf,
    name: String,
    /// The plugin as a part of this program, where `path` leads to this program.
    built_in: Option<BuiltIn>,
}

impl IpamPlugin {
    /// Finds the executable `name` in the directories of `CNI_PATH`.
    ///
    /// # Errors
    /// Code 7 when `name` is not a plain file name (it must not lead out of these directories), 4
    /// when `CNI_PATH` is not set, 999 when the file is in none of the directories; with the
    /// texts of libcni.
    pub fn find(name: &str, delegates: &Delegates) -> Result<Self> {
        if name.is_empty() {
            return Err(Error::config("no plugin name provided"));
        }
        if name.contains('/') || name.contains('\0') || name == "." || name == ".." {
            return Err(Error::config(format!("invalid plugin name: {name}")));
        }
        if delegates.path.is_empty() {
            return Err(missing_variables(&["CNI_PATH"]));
        }
        let directories = delegates.path.split(':').filter(|d| !d.is_empty());
        let directories: Vec<&str> = directories.collect();
        let candidates = directories
            .iter()
            .map(|directory| Path::new(directory).join(name));
        match candidates.into_iter().find(|path| path.is_file()) {
            Some(path) => Ok(Self {
                built_in: delegates.built_in(name).filter(|_| is_this_program(&path)),
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
    pub fn find_configured(name: &str, delegates: &Delegates) -> Result<Option<Self>> {
        match name {
            "" => Ok(None),
            name => Self::find(name, delegates).map(Some),
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
        match Self::find_configured(&name, &conf.delegates)? {
            Some(ipam) => ipam.forward(Command::Gc, conf),
            None => Ok(()),
        }
    }

    /// Reserves addresses: ADD of the delegate. The caller must call [`IpamPlugin::del`] when
    /// this fails (CNI specification, section 4), because the delegate may have reserved an
    /// address.
    ///
    /// # Errors
    /// The delegate's own error, unchanged; code 6 when its result cannot be read, 999 when the
    /// result has no address or the delegate does not answer.
    pub fn add(&self, args: &CmdArgs) -> Result<AddResult> {
        let environment = environment(Command::Add, args);
        let result = match &self.built_in {
            Some(built_in) => call(built_in, environment, &args.conf)?.unwrap_or_default(),
            None => {
                let stdout = self.execute(&environment, &args.conf.stdin)?;
                answer::result(&stdout, args.conf.version)?
            }
        };
        if result.ips.is_empty() {
            return Err(Error::internal("IPAM plugin returned missing IP config"));
        }
        Ok(result)
    }

    /// Releases the addresses: DEL of the delegate. Its configuration is `conf`, which may have
    /// the `ipam` section of the attachment's record.
    ///
    /// # Errors
    /// As for [`IpamPlugin::add`].
    pub fn del(&self, args: &CmdArgs, conf: &ConfArgs) -> Result<()> {
        self.serve(environment(Command::Del, args), conf)
    }

    /// Verifies that the addresses are still reserved: CHECK of the delegate.
    ///
    /// # Errors
    /// As for [`IpamPlugin::add`].
    pub fn check(&self, args: &CmdArgs) -> Result<()> {
        self.serve(environment(Command::Check, args), &args.conf)
    }

    /// Passes STATUS or GC on to the delegate.
    ///
    /// # Errors
    /// As for [`IpamPlugin::add`].
    pub fn forward(&self, command: Command, conf: &ConfArgs) -> Result<()> {
        let environment = Environment {
            command: command.as_str().to_owned(),
            path: conf.delegates.path.clone(),
            ..Environment::default()
        };
        self.serve(environment, conf)
    }

    /// Calls the delegate with a command that has no result.
    fn serve(&self, environment: Environment, conf: &ConfArgs) -> Result<()> {
        match &self.built_in {
            Some(built_in) => call(built_in, environment, conf).map(drop),
            None => self.execute(&environment, &conf.stdin).map(drop),
        }
    }

    /// Executes the delegate and returns its stdout, or its error when it fails. The stderr of a
    /// successful delegate is written to the stderr of this process.
    fn execute(&self, environment: &Environment, stdin: &[u8]) -> Result<Vec<u8>> {
        let mut process = Process::new(&self.path);
        process
            .env("CNI_COMMAND", &environment.command)
            .env("CNI_PATH", &environment.path);
        if let (Some(id), Some(ifname)) = (&environment.container_id, &environment.ifname) {
            process
                .env("CNI_CONTAINERID", id.as_str())
                .env("CNI_NETNS", &environment.netns)
                .env("CNI_IFNAME", ifname.as_str())
                .env("CNI_ARGS", &environment.cni_args);
        }
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

/// Calls a plugin inside this program. Its error has no errno, as if it was read from the error
/// document of an executed plugin.
fn call(
    built_in: &BuiltIn,
    environment: Environment,
    conf: &ConfArgs,
) -> Result<Option<AddResult>> {
    (built_in.serve)(environment, conf.clone()).map_err(Error::as_read)
}

/// The environment of a delegate for a command about an attachment.
fn environment(command: Command, args: &CmdArgs) -> Environment {
    Environment {
        command: command.as_str().to_owned(),
        container_id: Some(args.container_id.clone()),
        ifname: Some(args.ifname.clone()),
        netns: args.netns.clone(),
        cni_args: args.cni_args.clone(),
        path: args.conf.delegates.path.clone(),
        // The caller has refused or removed a path to the namespace of this process where it
        // matters. An IPAM plugin only stores the path.
        netns_override: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    fn find(name: &str, path: &str) -> Result<IpamPlugin> {
        IpamPlugin::find(name, &Delegates::in_path(path))
    }

    #[test]
    fn a_plugin_name_cannot_lead_out_of_its_directories() {
        for wrong in ["", ".", "..", "../sh", "/bin/sh", "a/b"] {
            assert_eq!(
                find(wrong, "/bin").unwrap_err().code,
                ErrorCode::NETWORK_CONFIG,
                "{wrong}"
            );
        }
        assert_eq!(
            find("sh", "").unwrap_err().msg,
            "required env variables [CNI_PATH] missing"
        );
        assert_eq!(
            find("no-such-plugin", "/a:/b").unwrap_err().msg,
            "failed to find plugin \"no-such-plugin\" in path [/a /b]"
        );
    }
}
