//! The result of a check.

use serde::Serialize;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// The check has passed.
    Ok,
    /// An information.
    Info,
    /// A problem that may have consequences later, or only under some conditions.
    Warning,
    /// Something does not work.
    Error,
}

impl Level {
    /// The name of the level in text.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// The result of one check for one subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The name of the check.
    pub(crate) check: &'static str,
    /// The subject: an ENI, a network, an action.
    pub(crate) subject: String,
    pub(crate) level: Level,
    /// What was found.
    pub(crate) says: String,
    /// What to do about it; empty if nothing.
    pub(crate) advice: String,
}

impl Finding {
    pub(crate) fn ok(check: &'static str, subject: &str, says: impl Into<String>) -> Self {
        Self::new(Level::Ok, check, subject, says)
    }

    pub(crate) fn info(check: &'static str, subject: &str, says: impl Into<String>) -> Self {
        Self::new(Level::Info, check, subject, says)
    }

    pub(crate) fn warning(check: &'static str, subject: &str, says: impl Into<String>) -> Self {
        Self::new(Level::Warning, check, subject, says)
    }

    pub(crate) fn error(check: &'static str, subject: &str, says: impl Into<String>) -> Self {
        Self::new(Level::Error, check, subject, says)
    }

    /// The finding with advice.
    #[must_use]
    pub(crate) fn advise(self, advice: impl Into<String>) -> Self {
        Self {
            advice: advice.into(),
            ..self
        }
    }

    fn new(level: Level, check: &'static str, subject: &str, says: impl Into<String>) -> Self {
        Self {
            check,
            subject: subject.to_owned(),
            level,
            says: says.into(),
            advice: String::new(),
        }
    }
}
