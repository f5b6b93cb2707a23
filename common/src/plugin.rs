//! The main function of every plugin: it reads a command from environment and stdin, calls the
//! plugin's function, and reports the outcome as one JSON document on stdout and an exit
//! status. A function is called only with valid input.

mod log_file;
mod panic;

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

/// The first size of the buffer for stdin, in bytes, which is enough for most configurations.
const USUAL_CONFIGURATION: usize = 4096;
/// The start of the message when the configuration's name or version has the wrong type.
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
    /// Removes an attachment; also called to undo an ADD whose result could not be delivered.
    pub del: fn(&CmdArgs) -> Result<()>,
    /// Reports whether an ADD could be served.
    pub status: fn(&ConfArgs) -> Result<()>,
    /// Removes every attachment that is not valid.
    pub gc: fn(&ConfArgs) -> Result<()>,
}

/// The keys that must be readable for every command. Each command decides what else of a
/// configuration must be valid; for DEL it is little.
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

/// Reads a configuration as a plugin does, for callers that want to know whether a plugin would
/// accept it. `stdin` is the configuration as a runtime writes it to stdin, `path` is
/// `CNI_PATH`.
///
/// # Errors
/// As the first errors of ADD: code 6 for a document that is not a configuration, 7 for an
/// invalid network name, 1 for a version that is not supported.
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

/// Serves the command that this process was started for. `built_in` are the other plugins
/// inside this program.
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
    panic::answer_panics();
    match serve(plugin, built_in) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

/// Whether a runtime has started this process: `CNI_COMMAND` is set and not empty.
pub fn is_called() -> bool {
    variable("CNI_COMMAND").is_some_and(|command| !command.is_empty())
}

/// Prints `text` on stdout, for a person who executes a program by hand. The exit status says
/// whether that succeeded.
pub fn tell(text: &str) -> ExitCode {
    match print(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Answers any command with `error`, where no plugin can serve it.
pub fn refuse(error: Error) -> ExitCode {
    report(&Failure::from(error))
}

/// Serves a command for a delegate inside this program, as the delegate's own program does.
/// Environment and configuration are not validated again: the plugin that delegates has done
/// so.
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

/// Does `work`, and writes its outcome to the log file of the network, if it has one.
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

/// The answer to `--version` and `--help`.
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

/// Calls the function for a command. Only ADD has a result, which `deliver` has delivered when
/// this returns.
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
            // The container's namespace is gone and its path leads to the namespace of this
            // process now: for example, it is the path of a process whose pid was assigned
            // again.
            if is_own {
                args.netns.clear();
            }
            (plugin.del)(&args).map(nothing).map_err(retryable)
        }
    }
}

/// ADD has succeeded only when its result is delivered. If that fails the attachment is
/// removed, because the runtime does not know of it.
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

/// Prints the result, and returns it.
fn printed(result: AddResult, version: CniVersion) -> Result<AddResult> {
    print(&result.to_json(version)?).map_err(|cause| unprintable(&cause))?;
    Ok(result)
}

/// The result of a command that is not ADD.
fn nothing((): ()) -> Option<AddResult> {
    None
}

/// The attachment that the environment names. [`Environment::read`] has made sure that these
/// commands have one.
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

/// The version in which an error is reported: that of the configuration if it is supported,
/// otherwise the newest one.
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

/// containerd takes a DEL error for success when its text says that something was not found,
/// and does not try again. Such words are replaced.
fn retryable(mut error: Error) -> Error {
    for text in [&mut error.msg, &mut error.details] {
        for (swallowed, replacement) in [
            ("not found", "missing"),
            ("o such file or directory", "o such file"),
        ] {
            while let Some(at) = text.to_ascii_lowercase().find(swallowed) {
                text.replace_range(at..at + swallowed.len(), replacement);
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

/// Writes a document without splitting it. If only its second part failed, the error document
/// after the first part would make the output unreadable.
fn print(text: &str) -> io::Result<()> {
    Stdout.write_all(text.as_bytes())
}

/// stdout without the line buffer of std, which writes the text after the last line feed of a
/// document separately.
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
    fn a_del_error_has_no_text_that_containerd_takes_for_success() {
        let error = Error::internal("Link Not Found")
            .with_details("No such file or directory (os error 2), not found");
        let said = retryable(error);
        assert_eq!(said.msg, "Link missing");
        assert_eq!(said.details, "No such file (os error 2), missing");
    }
}
