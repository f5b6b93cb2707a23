//! The frame of every plugin: environment and stdin become a command, the outcome
//! becomes one JSON document on stdout and an exit status. No command is entered
//! with an input that is not valid.

mod log_file;

use std::io::{self, Read, Write};
use std::process::ExitCode;

use serde::Deserialize;

use self::log_file::LogFile;
use crate::cni::args::{BuiltIn, CmdArgs, Command, ConfArgs, Delegates, Environment};
use crate::cni::config::Document;
use crate::cni::identifier::is_identifier;
use crate::cni::result::AddResult;
use crate::cni::version::{self, CniVersion};
use crate::error::{Error, ErrorCode, Result};
use crate::kernel::netns;
use crate::say;

/// What is enough for most configurations; a longer one takes a few more reads.
const USUAL_CONFIGURATION: usize = 4096;
/// What begins the message when the configuration's name or version has the wrong type.
const UNREADABLE: &str = "error unmarshall network config";

/// A plugin: its name and version, and a function for each command.
#[derive(Clone, Copy, Debug)]
pub struct Commands {
    /// The name that the about text shows.
    pub name: &'static str,
    /// The version that the about text shows.
    pub version: &'static str,
    /// The text by which the program is recognised; see [`marker!`](crate::marker).
    pub marker: &'static str,
    /// Attaches the container.
    pub add: fn(&CmdArgs) -> Result<AddResult>,
    /// Verifies an attachment.
    pub check: fn(&CmdArgs) -> Result<()>,
    /// Removes an attachment; also what undoes an ADD whose result could not be delivered.
    pub del: fn(&CmdArgs) -> Result<()>,
    /// Reports whether an ADD could be served.
    pub status: fn(&ConfArgs) -> Result<()>,
    /// Removes every attachment that is not valid.
    pub gc: fn(&ConfArgs) -> Result<()>,
}

/// What must be readable for any command to be entered. The rest of a configuration
/// is each command's own question: DEL asks little of it.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Header {
    cni_version: String,
    name: String,
}

/// An error together with the version to report it in.
struct Failure {
    version: String,
    error: Error,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            version: CniVersion::LATEST.to_string(),
            error,
        }
    }
}

/// The configuration that a runtime would write to stdin, as every command of a plugin has
/// it, for who wants to know what the plugin says of it. `path` is `CNI_PATH`.
///
/// # Errors
/// What ADD says before it does anything: code 6 for what is not a configuration, 7 for a
/// network name and 1 for a version that is not supported.
pub fn configuration(stdin: Vec<u8>, path: &str) -> Result<ConfArgs> {
    let document = Document::parse(&stdin)?;
    let header: Header = document.read(UNREADABLE)?;
    require_name(&header.name)?;
    Ok(ConfArgs {
        version: version::negotiate(&header.cni_version)?,
        network: header.name,
        delegates: Delegates::in_path(path),
        stdin,
        document,
    })
}

/// Serves the one command this process was started for. `built_in` is what else this program
/// is.
pub fn run(plugin: &Commands, built_in: &'static [BuiltIn]) -> ExitCode {
    if !is_called() {
        let first = std::env::args_os().nth(1);
        if let Some(text) = first.and_then(|argument| answer(plugin, argument.to_str()?)) {
            return tell(&text);
        }
        for line in about(plugin).lines() {
            say!("{line}");
        }
        return ExitCode::SUCCESS;
    }
    match serve(plugin, built_in) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

/// Whether a runtime has started this process, and wants an answer.
pub fn is_called() -> bool {
    variable("CNI_COMMAND").is_some_and(|command| !command.is_empty())
}

/// Prints what somebody has asked for who executes a program by hand.
pub fn tell(text: &str) -> ExitCode {
    match print(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Answers any command with an error: there is no plugin that could serve it.
pub fn refuse(error: Error) -> ExitCode {
    report(&Failure::from(error))
}

/// Serves a command of a delegate that is built into this program as the delegate's own program
/// does, but for what only a process has: what is valid about environment and configuration,
/// the plugin that delegates has made sure of.
///
/// # Errors
/// Those of the command.
pub fn serve_built_in(
    plugin: &Commands,
    environment: Environment,
    conf: ConfArgs,
) -> Result<Option<AddResult>> {
    let log = LogFile::of(&conf.document, plugin.name, &conf.network, &environment);
    logged(log, || {
        let command = known_command(&environment)?;
        dispatch(plugin, command, environment, conf, AddResult::as_read)
    })
}

/// Does the work of a command and writes down how it has ended, where the network has a log.
fn logged(
    log: Option<LogFile>,
    work: impl FnOnce() -> Result<Option<AddResult>>,
) -> Result<Option<AddResult>> {
    let outcome = work();
    if let Some(log) = log {
        log.write(outcome.as_ref().map(Option::as_ref));
    }
    outcome
}

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn report(failure: &Failure) -> ExitCode {
    if let Err(cause) = print(&failure.error.to_json(&failure.version)) {
        say!("{}; it could not be reported: {cause}", failure.error);
    }
    ExitCode::FAILURE
}

/// What somebody gets who executes a plugin by hand to find out what it is.
fn answer(plugin: &Commands, argument: &str) -> Option<String> {
    let Commands { name, version, .. } = plugin;
    match argument {
        "--version" | "-V" => Some(format!("{name} {version}\n")),
        "--help" | "-h" => Some(format!(
            "{}\n\
             A container runtime executes it with CNI_COMMAND in its environment, and the\n\
             configuration of a network on stdin. It has no options but --help and --version.\n",
            about(plugin)
        )),
        _ => None,
    }
}

fn about(plugin: &Commands) -> String {
    let versions: Vec<&str> = CniVersion::ALL.iter().map(|v| v.as_str()).collect();
    format!(
        "CNI {} plugin v{}\nCNI protocol versions supported: {}\n{}",
        plugin.name,
        plugin.version,
        versions.join(", "),
        plugin.marker
    )
}

fn serve(plugin: &Commands, built_in: &'static [BuiltIn]) -> Result<(), Failure> {
    let environment = Environment::read(variable)?;
    if environment.command == Command::Version.as_str() {
        print(&version::reply()).map_err(|cause| unprintable(&cause))?;
        return Ok(());
    }
    let stdin = read_stdin()?;
    let document = Document::parse(&stdin)?;
    let header: Header = document.read(UNREADABLE)?;
    let log = LogFile::of(&document, plugin.name, &header.name, &environment);
    let outcome = logged(log, || {
        require_name(&header.name)?;
        let command = known_command(&environment)?;
        let conf = ConfArgs {
            network: header.name.clone(),
            delegates: Delegates {
                path: environment.path.clone(),
                built_in,
            },
            version: negotiate(command, &header.cni_version)?,
            stdin,
            document,
        };
        dispatch(plugin, command, environment, conf, printed)
    });
    outcome.map(drop).map_err(|error| Failure {
        version: reported_version(&header),
        error,
    })
}

/// How the result of ADD is delivered in the version of the configuration.
type Deliver = fn(AddResult, CniVersion) -> Result<AddResult>;

/// Enters a command. ADD has a result, which has been delivered then.
fn dispatch(
    plugin: &Commands,
    command: Command,
    environment: Environment,
    conf: ConfArgs,
    deliver: Deliver,
) -> Result<Option<AddResult>> {
    match command {
        Command::Status => return (plugin.status)(&conf).map(nothing),
        Command::Gc => return (plugin.gc)(&conf).map(nothing),
        Command::Add | Command::Check | Command::Del | Command::Version => {}
    }
    let netns_override = environment.netns_override;
    let mut args = attachment(environment, conf)?;
    let is_own = !netns_override && netns::is_current(&args.netns)?;
    match command {
        Command::Check => (plugin.check)(&args).map(nothing),
        Command::Add if is_own => {
            let msg = "plugin's netns and netns from CNI_NETNS should not be the same";
            Err(Error::new(ErrorCode::NETNS, msg))
        }
        Command::Add => add(plugin, &args, deliver).map(Some),
        _ => {
            // The container's namespace is gone and its path leads here by now, as
            // that of a process whose number was given to another one does.
            if is_own {
                args.netns.clear();
            }
            (plugin.del)(&args).map(nothing).map_err(retryable)
        }
    }
}

/// ADD is done when its result is delivered. An attachment that the runtime does
/// not learn of is undone.
fn add(plugin: &Commands, args: &CmdArgs, deliver: Deliver) -> Result<AddResult> {
    let result = (plugin.add)(args)?;
    let delivered = deliver(result, args.conf.version);
    if delivered.is_err()
        && let Err(error) = (plugin.del)(args)
    {
        say!("undoing an ADD whose result could not be delivered: {error}");
    }
    delivered
}

/// The result, which is printed then.
fn printed(result: AddResult, version: CniVersion) -> Result<AddResult> {
    print(&result.to_json(version)?).map_err(|cause| unprintable(&cause))?;
    Ok(result)
}

/// What a command has that is no ADD.
fn nothing((): ()) -> Option<AddResult> {
    None
}

/// The attachment that the environment names. The reading of the environment has
/// made sure that these commands have one.
fn attachment(environment: Environment, conf: ConfArgs) -> Result<CmdArgs> {
    let (Some(container_id), Some(ifname)) = (environment.container_id, environment.ifname) else {
        return Err(crate::cni::args::missing_variables(&[
            "CNI_CONTAINERID",
            "CNI_IFNAME",
        ]));
    };
    Ok(CmdArgs {
        container_id,
        ifname,
        netns: environment.netns,
        cni_args: environment.cni_args,
        conf,
    })
}

fn negotiate(command: Command, text: &str) -> Result<CniVersion> {
    match command {
        Command::Check => version::negotiate_since(text, "CHECK", CniVersion::V0_4_0),
        Command::Status => version::negotiate_since(text, "STATUS", CniVersion::V1_1_0),
        Command::Gc => version::negotiate_since(text, "GC", CniVersion::V1_1_0),
        Command::Add | Command::Del | Command::Version => version::negotiate(text),
    }
}

/// The version in which an error is reported: the configuration's, if it is ours.
fn reported_version(header: &Header) -> String {
    let version = CniVersion::from_text(&header.cni_version);
    version.unwrap_or(CniVersion::LATEST).to_string()
}

fn require_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::config("missing network name"));
    }
    if !is_identifier(name) {
        return Err(Error::config("invalid characters found in network name").with_details(name));
    }
    Ok(())
}

fn known_command(environment: &Environment) -> Result<Command> {
    let text = &environment.command;
    let unknown = || {
        Error::new(
            ErrorCode::ENVIRONMENT,
            format!("unknown CNI_COMMAND: {text}"),
        )
    };
    Command::from_text(text).ok_or_else(unknown)
}

/// containerd takes a DEL error for success when its text says that something was
/// not found, and never tries again. Such words are said differently.
fn retryable(mut error: Error) -> Error {
    for text in [&mut error.msg, &mut error.details] {
        for (swallowed, said) in [
            ("not found", "missing"),
            ("o such file or directory", "o such file"),
        ] {
            while let Some(at) = text.to_ascii_lowercase().find(swallowed) {
                text.replace_range(at..at + swallowed.len(), said);
            }
        }
    }
    error
}

fn read_stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(USUAL_CONFIGURATION);
    io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|cause| Error::io("error reading from stdin", &cause))?;
    Ok(bytes)
}

/// In one piece: when the rest of a document could not be written, an error behind its
/// first part would make two documents that are none.
fn print(text: &str) -> io::Result<()> {
    Stdout.write_all(text.as_bytes())
}

/// stdout without the buffer of std, which sends what is behind the last line feed of
/// a document on its own.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(nix::unistd::write(io::stdout(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn unprintable(cause: &io::Error) -> Error {
    Error::io("failed to write the result to stdout", cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_del_error_never_says_what_containerd_takes_for_success() {
        let error = Error::internal("Link Not Found")
            .with_details("No such file or directory (os error 2), not found");
        let said = retryable(error);
        assert_eq!(said.msg, "Link missing");
        assert_eq!(said.details, "No such file (os error 2), missing");
    }
}
