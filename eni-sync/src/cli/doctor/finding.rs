//! What a check has found, as a value.

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// It is as it should be.
    Ok,
    /// It is good to know.
    Info,
    /// It will do harm some day, or only under some conditions.
    Warning,
    /// It does not work.
    Error,
}

impl Level {
    /// The word for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What one check says about one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The name of the check.
    pub(crate) check: &'static str,
    /// What was looked at: an ENI, a network, an action.
    pub(crate) subject: String,
    pub(crate) level: Level,
    /// What was found.
    pub(crate) says: String,
    /// What to do about it; empty when there is nothing to do.
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

    /// The same with what to do about it.
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
