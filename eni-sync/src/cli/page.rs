//! The agent's status page for a browser on the node: the output of `status` and `doctor`, and
//! the last changes. It is made in `cli`, because the agent does not depend on the commands.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::error::Result;

use crate::cli::doctor::{self, Findings};
use crate::cli::status;

/// How long the doctor's findings are shown before they are renewed: the doctor asks EC2, and
/// loading the page often must not make the agent do so.
const DOCTOR_AGE: Duration = Duration::from_secs(300);

/// The inputs of the page, apart from those of the agent.
#[derive(Debug)]
pub(crate) struct Page {
    configuration: Option<PathBuf>,
    plugins: PathBuf,
    examined: Mutex<Option<(Instant, Findings)>>,
}

impl Page {
    /// The page of an agent with this configuration, and this directory of plugins.
    pub(crate) fn new(configuration: Option<PathBuf>, plugins: PathBuf) -> Self {
        Self {
            configuration,
            plugins,
            examined: Mutex::default(),
        }
    }

    /// The current page. `wrong` has the problems that the agent itself knows.
    ///
    /// # Errors
    /// Those of `status`.
    pub(crate) fn html(&self, wrong: &[String]) -> Result<String> {
        let agent = self.configuration.as_deref();
        status::page(&self.plugins, agent, wrong, &self.examined())
    }

    fn examined(&self) -> Findings {
        let mut examined = self.examined.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, findings)) = &*examined
            && when.elapsed() < DOCTOR_AGE
        {
            return findings.clone();
        }
        let findings = doctor::findings(None, self.configuration.as_deref(), &self.plugins);
        let findings = findings.map_err(|error| error.to_string());
        *examined = Some((Instant::now(), findings.clone()));
        findings
    }
}
