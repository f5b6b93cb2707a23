//! The command line, and the plugins it asks for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;

use crate::plugin::{Plugin, Recipe};

/// Examines CNI plugins from outside, by numbered assertions.
///
/// Every plugin of the directory that is known is examined, unless `--plugin` or
/// `--config` name some. The exit status is 0 when no assertion fails.
#[derive(Debug, Parser)]
#[command(name = "conformance", version)]
pub(crate) struct Options {
    /// The directories that plugins are in, the first one first; without it, the variable
    /// CNI_PATH names them.
    #[arg(long, value_name = "DIR[:DIR]")]
    cni_path: Option<String>,
    /// Examine only this one; repeat it for more.
    #[arg(long, value_name = "NAME")]
    plugin: Vec<String>,
    /// How a plugin is called that is not known; repeat it for more.
    #[arg(long, value_name = "NAME=FILE", value_parser = name_and_file)]
    config: Vec<(String, PathBuf)>,
    /// Apply only this assertion; repeat it for more.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=63))]
    pub(crate) assertion: Vec<u8>,
    /// A directory with other implementations, for assertion 61.
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// What to call the plugins of this directory in the table.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) label: String,
    /// A network card of this machine that may be moved, for assertion 45; without it, that a
    /// card comes back from a namespace that died is left out.
    #[arg(long, value_name = "NAME")]
    card: Option<String>,
    /// Seconds that a plugin may take to give up an IPAM plugin that hangs, in assertion 25;
    /// 0 leaves that out.
    #[arg(long, value_name = "SECONDS", default_value_t = 150)]
    patience: u64,
    /// How often an ADD or DEL of many at once, in assertion 56, is repeated that says to try again
    /// (code 11), as runtimes do; for a machine that is too slow for so many.
    #[arg(long, value_name = "TIMES", default_value_t = 0)]
    repeat: u32,
    /// Write what has come to this file too.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Show the columns of an earlier `--json` too; repeat it for more.
    #[arg(long, value_name = "FILE")]
    pub(crate) with: Vec<PathBuf>,
    /// Examine nothing, and show what `--with` names.
    #[arg(long, requires = "with")]
    pub(crate) show: bool,
    /// Print the assertions and examine nothing.
    #[arg(long)]
    pub(crate) list: bool,
}

impl Options {
    /// The plugins to examine, each with its recipe.
    pub(crate) fn plugins(&self) -> Result<Vec<Plugin>, String> {
        let configured = self.config.iter().map(|(name, _)| name.as_str());
        let named: Vec<&str> = self
            .plugin
            .iter()
            .map(String::as_str)
            .chain(configured)
            .collect();
        let names = match named.as_slice() {
            [] => Recipe::names()
                .filter(|name| self.program(name).is_some())
                .collect(),
            _ => named,
        };
        if names.is_empty() {
            return Err(format!(
                "there is no plugin that is known in {:?}",
                self.cni_path()
            ));
        }
        names.into_iter().map(|name| self.load(name)).collect()
    }

    fn load(&self, name: &str) -> Result<Plugin, String> {
        let program = self.program(name);
        let program =
            program.ok_or_else(|| format!("there is no {name:?} in {:?}", self.cni_path()))?;
        let file = self
            .config
            .iter()
            .find(|(configured, _)| configured == name);
        let recipe = match file {
            Some((_, file)) => Recipe::of_file(file),
            None => Recipe::known(name).unwrap_or_else(|| {
                Err(format!("{name:?} is not known: give --config {name}=FILE"))
            }),
        };
        let mut plugin = Plugin::new(name, program, recipe?);
        let peer = self.peers.as_ref().map(|directory| directory.join(name));
        plugin.peer = peer.filter(|peer| peer.is_file());
        plugin.card.clone_from(&self.card);
        plugin.patience = Duration::from_secs(self.patience);
        plugin.repeat = self.repeat;
        Ok(plugin)
    }

    fn cni_path(&self) -> String {
        let given = self.cni_path.clone();
        given.unwrap_or_else(|| std::env::var("CNI_PATH").unwrap_or_default())
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        let path = self.cni_path();
        let directories = path.split(':').filter(|directory| !directory.is_empty());
        directories
            .map(|directory| Path::new(directory).join(name))
            .find(|path| path.is_file())
    }
}

fn name_and_file(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("expected NAME=FILE")?;
    Ok((name.to_owned(), PathBuf::from(file)))
}
