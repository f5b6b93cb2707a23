//! The keys of eni-sync in a network's configuration.

use std::time::Duration;

use common::cni::config::Document;
use common::error::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::ledger::{DEFAULT_COOLDOWN, LONGEST_COOLDOWN, Takeover};

/// The keys of one configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Whether an ADD whose addresses are not registered fails.
    pub(crate) strict: bool,
    /// How long an address stays on its ENI after its attachment has ended.
    pub(crate) cooldown: Duration,
    /// From which ENIs an address may be taken.
    pub(crate) takeover: Takeover,
}

impl Config {
    /// The keys of a configuration.
    ///
    /// # Errors
    /// Code 7 with the key and the value.
    pub(crate) fn parse(document: &Document) -> Result<Self> {
        Ok(Self {
            strict: match document.get("strict") {
                None => true,
                Some(Value::Bool(strict)) => *strict,
                Some(other) => return Err(invalid("strict", other, "it is true or false")),
            },
            cooldown: match document.get("cooldownSeconds") {
                None => DEFAULT_COOLDOWN,
                Some(value) => value
                    .as_u64()
                    .filter(|seconds| *seconds <= LONGEST_COOLDOWN)
                    .map(Duration::from_secs)
                    .ok_or_else(|| invalid("cooldownSeconds", value, "it is 0 to 86400 seconds"))?,
            },
            takeover: match document.get("takeover") {
                None => Takeover::default(),
                Some(value) => Takeover::deserialize(value)
                    .map_err(|_| invalid("takeover", value, "it is never, dead-owner or always"))?,
            },
        })
    }
}

fn invalid(key: &str, value: &Value, possible: &str) -> Error {
    Error::config(format!("invalid {key} {value}")).with_details(possible)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(&Document::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn without_keys_an_address_must_be_registered_and_is_never_taken_from_the_living() {
        let config = Config {
            strict: true,
            cooldown: Duration::from_secs(30),
            takeover: Takeover::DeadOwner,
        };
        assert_eq!(parse("{}").unwrap(), config);
        let null = r#"{"strict":null,"cooldownSeconds":null,"takeover":null}"#;
        assert_eq!(parse(null).unwrap(), config);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_key() {
        for (text, said) in [
            (
                r#"{"strict":"no"}"#,
                "invalid strict \"no\": it is true or false",
            ),
            (
                r#"{"cooldownSeconds":-1}"#,
                "invalid cooldownSeconds -1: it is 0 to 86400 seconds",
            ),
            (
                r#"{"cooldownSeconds":86401}"#,
                "invalid cooldownSeconds 86401: it is 0 to 86400 seconds",
            ),
            (
                r#"{"takeover":"sometimes"}"#,
                "invalid takeover \"sometimes\": it is never, dead-owner or always",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!((error.code.0, error.to_string().as_str()), (7, said));
        }
    }
}
