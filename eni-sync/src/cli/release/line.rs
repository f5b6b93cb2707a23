//! The result for an address or a prefix, and its line of output.

use std::fmt;
use std::net::IpAddr;
use std::process::ExitCode;

use common::address::Cidr;
use common::error::{Errors, Result};
use common::text::printable;

use super::Selection;
use crate::cli::output;
use crate::vpc::ec2::Description;
use crate::vpc::eni;

/// The result for an address or a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Released,
    WouldBe,
    /// It is not on the ENI, according to EC2.
    NotThere,
    Kept(String),
}

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Address(IpAddr),
    Prefix(Cidr),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Prefix(prefix) => prefix.fmt(f),
        }
    }
}

impl Subject {
    /// The addresses and prefixes that the selection names.
    fn of(selection: &Selection) -> impl Iterator<Item = Self> {
        let addresses = selection.address.iter().copied().map(Self::Address);
        addresses.chain(selection.prefix.iter().copied().map(Self::Prefix))
    }

    /// Whether it is on an ENI, according to EC2.
    fn is_on(self, eni: &Description) -> bool {
        match self {
            Self::Address(address) => eni.has(address),
            Self::Prefix(prefix) => eni.prefixes.contains(&prefix),
        }
    }

    fn is_primary_of(self, eni: &Description) -> bool {
        matches!(self, Self::Address(address) if eni.primary.contains(&address))
    }
}

/// The line of one address or prefix.
pub(super) struct Line {
    pub(super) subject: Subject,
    pub(super) eni: String,
    pub(super) fate: Fate,
}

impl Line {
    fn is_about(&self, subject: Subject) -> bool {
        self.subject == subject
    }

    pub(super) fn is_kept(&self) -> bool {
        matches!(self.fate, Fate::Kept(_))
    }
}

/// Lines for the named addresses and prefixes that are on the node's ENIs and must not be
/// removed: primary addresses, and those on ENIs that are not for pods.
pub(super) fn out_of_reach(
    selection: &Selection,
    found: &[Description],
    lines: &[Line],
) -> Vec<Line> {
    if selection.network.is_some() {
        return Vec::new();
    }
    let line = |subject: Subject| {
        let of_selection = |eni: &&Description| selection.eni.as_ref().is_none_or(|s| *s == eni.id);
        let mut enis = found.iter().filter(of_selection);
        let eni = enis.find(|eni| subject.is_on(eni))?;
        let why = match subject.is_primary_of(eni) {
            true => "it is the ENI's primary address",
            false if eni::require_releasable(eni).is_err() => "the ENI is not for pods",
            false => return None,
        };
        Some(Line {
            subject,
            eni: eni.id.clone(),
            fate: Fate::Kept(why.to_owned()),
        })
    };
    open(selection, lines).filter_map(line).collect()
}

/// The named addresses and prefixes without a line.
fn open<'a>(selection: &'a Selection, lines: &'a [Line]) -> impl Iterator<Item = Subject> + 'a {
    let is_open = |subject: &Subject| !lines.iter().any(|line| line.is_about(*subject));
    Subject::of(selection).filter(is_open)
}

/// Prints the lines, before `errors` are returned. The status is a failure when an address or a
/// prefix stays.
///
/// # Errors
/// Those given, and code 5 when nothing can be printed.
pub(super) fn report(selection: &Selection, lines: &[Line], errors: Errors) -> Result<ExitCode> {
    let mut text = String::new();
    for Line { subject, eni, fate } in lines {
        let fate = match fate {
            Fate::Released => "released".to_owned(),
            Fate::WouldBe => "would be released".to_owned(),
            Fate::NotThere => "not on the ENI".to_owned(),
            Fate::Kept(why) => format!("kept: {why}"),
        };
        let line = format!("{subject} on {eni}: {fate}");
        text.push_str(&format!("{}\n", printable(&line)));
    }
    // An ENI that failed may have addresses of the selection.
    if errors.is_empty() {
        text.push_str(&nothing(selection, lines));
    }
    output::print(text.as_bytes())?;
    errors.into_result()?;
    Ok(match lines.iter().any(Line::is_kept) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// The lines for named addresses and prefixes without a result.
fn nothing(selection: &Selection, lines: &[Line]) -> String {
    let text: String = open(selection, lines)
        .map(|subject| format!("{subject}: nothing to release\n"))
        .collect();
    match text.is_empty() && lines.is_empty() {
        true => "nothing to release\n".to_owned(),
        false => text,
    }
}
