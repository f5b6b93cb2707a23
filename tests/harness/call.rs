//! Calls of a plugin: environment and stdin are the input, one JSON document is the output.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::Pod;

/// The directory of the Go plugins in Debian's package containernetworking-plugins.
pub(crate) const GO_PLUGINS: &str = "/usr/lib/cni";

/// The path of our plugin `name`: in the first directory of `CNI_PATH` that has it, otherwise
/// in the target directory of the test binary, where a release build is preferred.
pub fn our_plugin(name: &str) -> PathBuf {
    let executable = std::env::current_exe().unwrap_or_default();
    let built = [executable.ancestors().nth(3), executable.ancestors().nth(2)];
    let [target, profile] = built.map(|directory| directory.unwrap_or(Path::new("/")));
    let configured = std::env::var("CNI_PATH").unwrap_or_default();
    let directories = configured
        .split(':')
        .filter(|d| !d.is_empty())
        .map(PathBuf::from)
        .chain([target.join("release"), profile.to_owned()]);
    directories
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!("there is no plugin {name:?}: build it with `make build`, or set CNI_PATH")
        })
}

/// The path of the test program `name`: beside the test binary, where `tests/suite-path` puts
/// it.
pub fn program(name: &str) -> PathBuf {
    let executable = std::env::current_exe().expect("a program knows where it is");
    let directories = executable.ancestors().skip(1).take(2);
    let mut paths = directories.map(|directory| directory.join(name));
    paths.find(|path| path.is_file()).unwrap_or_else(|| {
        panic!("there is no program {name:?}: tests/suite-path builds it with the tests")
    })
}

/// The path of the Go plugin `name`.
pub fn go_plugin(name: &str) -> PathBuf {
    let path = Path::new(GO_PLUGINS).join(name);
    assert!(
        path.is_file(),
        "{path:?} is missing: run `tests/prepare`, or install containernetworking-plugins"
    );
    path
}

/// A call that is being prepared. At first its environment has only `PATH` and `CNI_COMMAND`.
#[derive(Clone, Debug)]
pub struct Call {
    program: PathBuf,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    stdin: Vec<u8>,
}

impl Call {
    /// A call of `program` with this `CNI_COMMAND`; `CNI_PATH` finds our plugins
    /// first, then the Go plugins.
    pub fn new(program: impl Into<PathBuf>, command: &str) -> Self {
        let ours = our_plugin("host-local");
        let ours = ours.parent().expect("a plugin is in a directory").display();
        Self::bare(program, command).env("CNI_PATH", &format!("{ours}:{GO_PLUGINS}"))
    }

    /// A call of `program` with this `CNI_COMMAND`, without a `CNI_PATH`.
    pub fn bare(program: impl Into<PathBuf>, command: &str) -> Self {
        let call = Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            stdin: Vec::new(),
        };
        call.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", command)
    }

    /// A call of our plugin `name`.
    pub fn ours(name: &str, command: &str) -> Self {
        Self::new(our_plugin(name), command)
    }

    /// A call of the Go plugin `name`.
    pub fn go(name: &str, command: &str) -> Self {
        Self::new(go_plugin(name), command)
    }

    /// The same call, of another program.
    pub fn of_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Sets its command line.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|&text| text.to_owned()).collect();
        self
    }

    /// Sets one variable; an empty value is passed as an empty value.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The value of one variable; empty when it is not set.
    pub fn variable(&self, name: &str) -> String {
        self.environment.get(name).cloned().unwrap_or_default()
    }

    /// Removes one variable.
    pub fn without(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// Sets the attachment.
    pub fn attachment(self, container_id: &str, ifname: &str, netns: &str) -> Self {
        self.env("CNI_CONTAINERID", container_id)
            .env("CNI_IFNAME", ifname)
            .env("CNI_NETNS", netns)
    }

    /// Sets the attachment of a pod.
    pub fn pod(self, pod: &Pod, ifname: &str) -> Self {
        self.attachment(&pod.id, ifname, &pod.netns.path())
    }

    /// Sets the network configuration.
    pub fn conf(self, conf: &Value) -> Self {
        self.stdin(conf.to_string())
    }

    /// Sets the stdin of the plugin, byte for byte.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// The stdin of the plugin.
    pub fn input(&self) -> &[u8] {
        &self.stdin
    }

    /// The process, ready to be started, without its stdin.
    pub fn process(&self) -> Command {
        let mut process = Command::new(&self.program);
        process.args(&self.arguments);
        process.env_clear().envs(&self.environment);
        process
    }

    /// Starts the plugin in the namespaces of the calling thread, and writes its stdin. Its
    /// stdout is discarded; its stderr is `stderr`.
    pub fn start(&self, stderr: Stdio) -> Child {
        let mut process = self.process();
        process.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = process
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|cause| panic!("cannot execute {:?}: {cause}", self.program));
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        stdin.write_all(&self.stdin).expect("the plugin reads it");
        child
    }

    /// Starts the plugin in the namespaces of the calling thread and waits for it.
    pub fn run(&self) -> Output {
        self.run_as(self.process())
    }

    /// Runs the plugin as the last argument of another program, such as `strace`, which
    /// has the call's environment and stdin.
    pub fn run_under(&self, program: &str, arguments: &[&str]) -> Output {
        self.run_as(self.process_under(program, arguments))
    }

    /// The process for [`Self::run_under`], ready to be started.
    pub fn process_under(&self, program: &str, arguments: &[&str]) -> Command {
        let mut process = Command::new(program);
        process
            .args(arguments)
            .arg(&self.program)
            .args(&self.arguments);
        process.env_clear().envs(&self.environment);
        process
    }

    /// Runs `process`, which executes this call in some way, with the stdin of the call.
    pub fn run_as(&self, mut process: Command) -> Output {
        let mut child = process
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|cause| panic!("cannot execute {:?}: {cause}", self.program));
        let mut pipe = child.stdin.take().expect("stdin is a pipe");
        let stdin = self.stdin.clone();
        // A plugin may answer without reading; the closed pipe is then expected.
        let writer = std::thread::spawn(move || pipe.write_all(&stdin).ok());
        let output = child
            .wait_with_output()
            .expect("the plugin can be waited for");
        writer.join().expect("the writer ends");
        Output {
            call: self.clone(),
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The outcome of a call.
#[derive(Clone, Debug)]
pub struct Output {
    /// The call.
    pub call: Call,
    /// The exit status; `None` when a signal ended the process.
    pub status: Option<i32>,
    /// The stdout of the plugin.
    pub stdout: String,
    /// The stderr of the plugin.
    pub stderr: String,
}

/// The error document of a failed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// The CNI error code.
    pub code: u64,
    /// What was being done.
    pub msg: String,
    /// What the system answered.
    pub details: String,
}

impl Output {
    /// The result document of a successful call; `null` when it printed nothing.
    #[track_caller]
    pub fn ok(&self) -> Value {
        self.try_ok()
            .unwrap_or_else(|cause| panic!("{cause}\n{self}"))
    }

    /// As [`Self::ok`], with an error instead of a panic.
    pub fn try_ok(&self) -> Result<Value, String> {
        if self.status != Some(0) {
            return Err("the call failed".to_owned());
        }
        if self.stdout.is_empty() {
            return Ok(Value::Null);
        }
        self.try_document()
    }

    /// The error document of a failed call. It must be the only output on stdout, and have
    /// the keys of the specification.
    #[track_caller]
    pub fn error(&self) -> CniError {
        assert_eq!(
            self.status,
            Some(1),
            "the call did not fail with status 1\n{self}"
        );
        self.try_error()
            .unwrap_or_else(|cause| panic!("{cause}\n{self}"))
    }

    /// The error document of a call that ended with any status except 0, with an error
    /// instead of a panic.
    pub fn try_error(&self) -> Result<CniError, String> {
        if self.status.is_none_or(|status| status == 0) {
            return Err("the call did not fail".to_owned());
        }
        let document = self.try_document()?;
        let text = |key: &str| document[key].as_str().unwrap_or_default().to_owned();
        Ok(CniError {
            code: document["code"].as_u64().ok_or("the error has no code")?,
            msg: text("msg"),
            details: text("details"),
        })
    }

    /// The error document of a call that must fail with this code.
    #[track_caller]
    pub fn error_code(&self, code: u64) -> CniError {
        let error = self.error();
        assert_eq!(error.code, code, "another error code was expected\n{self}");
        error
    }

    /// The one JSON document on stdout.
    #[track_caller]
    pub fn document(&self) -> Value {
        self.try_document()
            .unwrap_or_else(|cause| panic!("{cause}\n{self}"))
    }

    fn try_document(&self) -> Result<Value, String> {
        serde_json::from_str(&self.stdout)
            .map_err(|cause| format!("stdout is not one JSON document: {cause}"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "--- {}", self.call.program.display())?;
        for (name, value) in &self.call.environment {
            writeln!(f, "{name}={value}")?;
        }
        writeln!(
            f,
            "--- stdin\n{}",
            String::from_utf8_lossy(&self.call.stdin)
        )?;
        writeln!(
            f,
            "--- stdout\n{}\n--- stderr\n{}",
            self.stdout, self.stderr
        )?;
        writeln!(f, "--- exit status {:?}", self.status)
    }
}
