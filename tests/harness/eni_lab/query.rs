//! The Query protocol of EC2 and STS: parameters as a form, answers as XML.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde_json::{Value, json};

use super::error::Ec2Error;
use super::identity::ASSUME;

/// The parameters of a call.
#[derive(Debug, Default)]
pub(super) struct Query {
    pairs: BTreeMap<String, String>,
}

/// A filter of a call: a name, and values of which one must match.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) name: String,
    pub(super) values: Vec<String>,
}

impl Query {
    /// Parses a URL-encoded form.
    pub(super) fn parse(form: &[u8]) -> Self {
        let pairs = form_urlencoded::parse(form).into_owned().collect();
        Self { pairs }
    }

    /// Adds the parameters of another form, because a request may have some in its URL.
    pub(super) fn extend(&mut self, form: &[u8]) {
        self.pairs.extend(Self::parse(form).pairs);
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.pairs.get(name).map(String::as_str)
    }

    /// All parameters except those that every request has.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self
            .pairs
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        pairs.filter(|(key, _)| !["Action", "Version"].contains(key) && !key.starts_with("X-Amz-"))
    }

    /// Whether there is a parameter with this name, or with this name and further parts.
    pub(super) fn has_below(&self, name: &str) -> bool {
        self.pairs.keys().any(|key| {
            let rest = key.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    pub(super) fn require(&self, name: &str) -> Result<&str, Ec2Error> {
        self.text(name).ok_or_else(|| missing(name))
    }

    /// `Name.1`, `Name.2` … in the order of their numbers.
    pub(super) fn list(&self, name: &str) -> Vec<&str> {
        let mut items: Vec<(u32, &str)> = self
            .pairs
            .iter()
            .filter_map(|(key, value)| {
                let index = key.strip_prefix(name)?.strip_prefix('.')?;
                Some((index.parse().ok()?, value.as_str()))
            })
            .collect();
        items.sort_unstable();
        items.into_iter().map(|item| item.1).collect()
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }

    /// A value that must be valid if it is present.
    pub(super) fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>, Ec2Error> {
        let parse = |text: &str| {
            let invalid = |_| {
                let message = format!("Value ({text}) for parameter {name} is invalid.");
                Ec2Error::value(message)
            };
            text.parse().map_err(invalid)
        };
        self.text(name).map(parse).transpose()
    }

    pub(super) fn require_parsed<T: FromStr>(&self, name: &str) -> Result<T, Ec2Error> {
        self.parsed(name)?.ok_or_else(|| missing(name))
    }

    pub(super) fn ipv4s(&self, name: &str) -> Result<Vec<IpAddr>, Ec2Error> {
        let parse = |text: &&str| text.parse::<Ipv4Addr>().map(IpAddr::V4);
        addresses(name, &self.list(name), parse)
    }

    pub(super) fn ipv6s(&self, name: &str) -> Result<Vec<IpAddr>, Ec2Error> {
        let parse = |text: &&str| text.parse::<Ipv6Addr>().map(IpAddr::V6);
        addresses(name, &self.list(name), parse)
    }

    pub(super) fn filters(&self) -> Vec<Filter> {
        self.numbered("Filter")
            .into_iter()
            .map(|prefix| Filter {
                name: self
                    .text(&format!("{prefix}.Name"))
                    .unwrap_or_default()
                    .to_owned(),
                values: self
                    .list(&format!("{prefix}.Value"))
                    .into_iter()
                    .map(str::to_owned)
                    .collect(),
            })
            .collect()
    }

    /// `Tag.1.Key` and `Tag.1.Value` … below the prefix, which ends with a dot.
    pub(super) fn tags(&self, prefix: &str) -> Vec<(String, String)> {
        self.numbered(&format!("{prefix}Tag"))
            .into_iter()
            .filter_map(|tag| {
                let key = self.text(&format!("{tag}.Key"))?;
                let value = self.text(&format!("{tag}.Value")).unwrap_or_default();
                Some((key.to_owned(), value.to_owned()))
            })
            .collect()
    }

    /// Refuses any parameter that the action does not have (the mutations
    /// have no `DryRun` and no `ClientToken`).
    pub(super) fn only(&self, names: &[&str]) -> Result<(), Ec2Error> {
        let known = |key: &String| {
            let first = key.split('.').next().unwrap_or_default();
            ["Action", "Version"].contains(&first)
                || first.starts_with("X-Amz-")
                || names.contains(&first)
        };
        match self.pairs.keys().find(|key| !known(key)) {
            Some(key) => Err(Ec2Error::bad(
                "UnknownParameter",
                format!("The parameter {key} is not recognized"),
            )),
            None => Ok(()),
        }
    }

    /// The prefixes `Name.1`, `Name.2` … that have parameters below them.
    fn numbered(&self, name: &str) -> Vec<String> {
        let mut numbers: Vec<u32> = self
            .pairs
            .keys()
            .filter_map(|key| {
                let rest = key.strip_prefix(name)?.strip_prefix('.')?;
                rest.split('.').next()?.parse().ok()
            })
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(|n| format!("{name}.{n}")).collect()
    }
}

fn addresses<E>(
    name: &str,
    texts: &[&str],
    parse: impl Fn(&&str) -> Result<IpAddr, E>,
) -> Result<Vec<IpAddr>, Ec2Error> {
    texts
        .iter()
        .map(|text| {
            parse(text).map_err(|_| {
                Ec2Error::value(format!(
                    "Value ({text}) for parameter {name} is invalid. Invalid IP address."
                ))
            })
        })
        .collect()
}

fn missing(name: &str) -> Ec2Error {
    let message = format!("The request must contain the parameter {name}");
    Ec2Error::bad("MissingParameter", message)
}

/// A list in EC2's form: `<set><item>…</item><item>…</item></set>`.
pub(super) fn items(values: impl IntoIterator<Item = Value>) -> Value {
    json!({"item": values.into_iter().collect::<Vec<_>>()})
}

/// The API, which determines the form of responses: EC2's differs from the others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    Ec2,
    Sts,
}

impl Api {
    /// The API to which the action belongs, if the lab knows it.
    pub(super) fn of(action: &str) -> Self {
        match action {
            ASSUME => Self::Sts,
            _ => Self::Ec2,
        }
    }

    /// The API version in requests.
    pub(super) fn version(self) -> &'static str {
        match self {
            Self::Ec2 => "2016-11-15",
            Self::Sts => "2011-06-15",
        }
    }

    fn namespace(self) -> String {
        match self {
            Self::Ec2 => format!("http://ec2.amazonaws.com/doc/{}/", self.version()),
            Self::Sts => format!("https://sts.amazonaws.com/doc/{}/", self.version()),
        }
    }

    /// The XML document of a response, from a JSON object. An array becomes repeated
    /// elements.
    pub(super) fn answer(self, action: &str, request_id: &str, fields: &Value) -> String {
        let mut document = json!({ "@xmlns": self.namespace() });
        match self {
            Self::Ec2 => {
                document["requestId"] = json!(request_id);
                if let (Some(document), Some(fields)) =
                    (document.as_object_mut(), fields.as_object())
                {
                    document.extend(fields.clone());
                }
            }
            Self::Sts => {
                document[format!("{action}Result")] = fields.clone();
                document["ResponseMetadata"] = json!({ "RequestId": request_id });
            }
        }
        xml(&format!("{action}Response"), &document)
    }

    /// The XML document of an error.
    pub(super) fn error_answer(self, error: &Ec2Error, request_id: &str) -> String {
        let Ec2Error { code, message, .. } = error;
        match self {
            Self::Ec2 => {
                let errors = json!({ "Error": { "Code": code, "Message": message } });
                xml(
                    "Response",
                    &json!({ "Errors": errors, "RequestID": request_id }),
                )
            }
            Self::Sts => {
                let error = json!({ "Type": "Sender", "Code": code, "Message": message });
                let namespace = self.namespace();
                let document =
                    json!({ "@xmlns": namespace, "Error": error, "RequestId": request_id });
                xml("ErrorResponse", &document)
            }
        }
    }
}

fn xml(root: &str, document: &Value) -> String {
    let text = quick_xml::se::to_string_with_root(root, document)
        .expect("names and values can be written as XML");
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{text}")
}
