//! The options of every plugin that makes an interface, besides addresses and routes.
//! They are read here, and applied by `sandbox` and `source_routing`.

use serde_json::Value;

use super::sandbox::{Sandbox, own_part, require_settled};
use super::source_routing::SourceRouting;
use crate::cni::config::Document;
use crate::cni::result::AddResult;
use crate::error::{Error, Result};
use crate::kernel::netlink::{Dad, Link};
use crate::records::Policy;

/// The options of one configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `enableDad`: whether IPv6 addresses undergo duplicate address detection, which
    /// ADD waits for.
    pub dad: Dad,
    /// `acceptRa`: whether routers on the link may configure the interface.
    pub accept_ra: bool,
    /// `sourceRouting`.
    pub source_routing: Option<SourceRouting>,
}

impl Options {
    /// The options of a configuration.
    ///
    /// # Errors
    /// Code 7 with the key and the value.
    pub fn from_document(document: &Document) -> Result<Self> {
        let dad = match is_on(document, "enableDad")? {
            true => Dad::On,
            false => Dad::Off,
        };
        Ok(Self {
            dad,
            accept_ra: is_on(document, "acceptRa")?,
            source_routing: SourceRouting::from_document(document)?,
        })
    }

    /// The source routing of an attachment that is about to be made in `sandbox`, if
    /// the configuration asks for it.
    ///
    /// # Errors
    /// As for [`SourceRouting::plan`].
    pub fn plan(&self, sandbox: &mut Sandbox) -> Result<Option<Policy>> {
        self.source_routing.map(|s| s.plan(sandbox)).transpose()
    }

    /// Compares `link`, which CHECK has found in the container, with these options.
    /// `recorded` is the source routing of the ADD.
    ///
    /// # Errors
    /// Code 999 naming the first thing that differs.
    pub fn verify(
        &self,
        sandbox: &mut Sandbox,
        link: &Link,
        prev_result: &AddResult,
        recorded: Option<&Policy>,
    ) -> Result<()> {
        let own = own_part(prev_result, &link.name, sandbox.netns.path());
        if self.dad == Dad::On {
            let mut present = sandbox.netlink.addresses(link.index)?;
            present.retain(|found| own.ips.iter().any(|ip| ip.address == found.cidr));
            require_settled(link, &present)?;
        }
        match (recorded, self.source_routing) {
            (Some(policy), _) => policy.verify(&mut sandbox.netlink, link, &own),
            (None, Some(unrecorded)) => unrecorded.verify(&mut sandbox.netlink, link, &own),
            (None, None) => Ok(()),
        }
    }
}

/// The value of a boolean key; false when it is missing.
fn is_on(document: &Document, key: &str) -> Result<bool> {
    match document.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => {
            let msg = format!("invalid {key} {other}");
            Err(Error::config(msg).with_details("it is true or false"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_off_by_default_and_accept_only_booleans() {
        let parse = |text: &str| Options::from_document(&Document::parse(text.as_bytes()).unwrap());
        for off in ["{}", r#"{"enableDad":null}"#, r#"{"enableDad":false}"#] {
            assert_eq!(parse(off).unwrap(), Options::default());
        }
        assert_eq!(parse(r#"{"EnableDAD":true}"#).unwrap().dad, Dad::On);
        let error = parse(r#"{"enableDad":"yes"}"#).unwrap_err();
        let text = (error.code.0, error.msg.as_str());
        assert_eq!(text, (7, "invalid enableDad \"yes\""));
        assert!(parse(r#"{"acceptRA":true}"#).unwrap().accept_ra);
        assert_eq!(
            parse(r#"{"acceptRa":1}"#).unwrap_err().msg,
            "invalid acceptRa 1"
        );
    }
}
