//! The page of the agent: what `status` and `doctor` say of this node, and the last changes, for
//! a browser on the node. It is made here, because the agent knows nothing of the commands.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::error::Result;

use crate::cli::doctor::{self, Findings};
use crate::cli::status;

/// How long what the doctor has found is shown: it asks EC2, which whoever loads the page must
/// not make the agent do as often as they like.
const DOCTOR_AGE: Duration = Duration::from_secs(300);

/// What the page needs besides what the agent tells.
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

    /// The page now. `wrong` is what the agent itself knows to be wrong.
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
