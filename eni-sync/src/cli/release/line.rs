//! What becomes of an address or a prefix, and the line that says so.

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

/// What becomes of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Released,
    WouldBe,
    /// It is not on the ENI, by what EC2 says.
    NotThere,
    Kept(String),
}

/// What a line is about.
#[derive(Clone, Copy, Debug)]
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

/// The line of one address or prefix.
pub(super) struct Line {
    pub(super) subject: Subject,
    pub(super) eni: String,
    pub(super) fate: Fate,
}

impl Line {
    fn is_about(&self, address: IpAddr) -> bool {
        matches!(self.subject, Subject::Address(own) if own == address)
    }

    pub(super) fn is_kept(&self) -> bool {
        matches!(self.fate, Fate::Kept(_))
    }
}

/// The addresses asked for by name that are on the node's ENIs and not to be removed:
/// primary ones, and those of ENIs that are not for pods.
pub(super) fn out_of_reach(
    selection: &Selection,
    found: &[Description],
    lines: &[Line],
) -> Vec<Line> {
    if selection.network.is_some() {
        return Vec::new();
    }
    let is_open = |address: &&IpAddr| !lines.iter().any(|line| line.is_about(**address));
    let line = |address: &IpAddr| {
        let of_selection = |eni: &&Description| selection.eni.as_ref().is_none_or(|s| *s == eni.id);
        let mut enis = found.iter().filter(of_selection);
        let eni = enis.find(|eni| eni.has(*address))?;
        let why = match eni.primary.contains(address) {
            true => "it is the ENI's primary address",
            false if eni::require_releasable(eni).is_err() => "the ENI is not for pods",
            false => return None,
        };
        Some(Line {
            subject: Subject::Address(*address),
            eni: eni.id.clone(),
            fate: Fate::Kept(why.to_owned()),
        })
    };
    let open = selection.address.iter().filter(is_open);
    open.filter_map(line).collect()
}

/// Prints the lines, before `errors` are returned. The status is a failure when any of them says
/// that something stays.
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
    // What could not be looked at may have something.
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

/// What is selected and has no line.
fn nothing(selection: &Selection, lines: &[Line]) -> String {
    let is_open = |address: &&IpAddr| !lines.iter().any(|line| line.is_about(**address));
    let open = selection.address.iter().filter(is_open);
    let text: String = open
        .map(|address| format!("{address}: nothing to release\n"))
        .collect();
    match text.is_empty() && lines.is_empty() {
        true => "nothing to release\n".to_owned(),
        false => text,
    }
}
