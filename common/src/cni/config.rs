//! The network configuration as a runtime wrote it, and the keys that every plugin
//! shares. What only one plugin reads is in that plugin.

use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cni::identifier::ContainerId;
use crate::cni::lenient::{find, read_value};
use crate::cni::result::{AddResult, Dns};
use crate::cni::version::CniVersion;
use crate::error::{Error, ErrorCode, Result};

/// A configuration document, parsed once.
#[derive(Clone, Debug)]
pub struct Document(Value);

/// The keys that every plugin with an interface reads. Source: CNI specification,
/// section 1, "Plugin configuration objects".
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct NetConf {
    /// The address management plugin, when there is one.
    pub ipam: Ipam,
    /// Name servers that go into the result.
    pub dns: Dns,
}

/// The part of the `ipam` section that the delegating plugin reads.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Ipam {
    /// The file name of the plugin's executable; empty means none.
    #[serde(rename = "type")]
    pub plugin: String,
}

/// An attachment that the runtime considers valid, as listed for GC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidAttachment {
    /// The container.
    pub container_id: String,
    /// The interface inside the container; empty stands for all of them.
    pub ifname: String,
}

impl Document {
    /// Parses the bytes a runtime wrote to stdin.
    ///
    /// # Errors
    /// Code 6 with the words of libcni.
    pub fn parse(stdin: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(stdin);
        match serde_json::from_str(&text) {
            Ok(value @ (Value::Object(_) | Value::Null)) => Ok(Self(value)),
            Ok(_) => Err(undecodable("the document is not a JSON object")),
            Err(cause) => Err(undecodable(cause)),
        }
    }

    /// The keys of `T`, read leniently.
    ///
    /// # Errors
    /// Code 6 naming what could not be read; `what` begins the message.
    pub fn read<T: DeserializeOwned>(&self, what: &str) -> Result<T> {
        read_value(&self.0, what)
    }

    /// The value of `key`, matched exactly or in any case; `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0
            .as_object()
            .and_then(|map| find(map, key))
            .filter(|v| !v.is_null())
    }

    /// The same document with `key` set to `value`.
    #[must_use]
    pub fn with(&self, key: &str, value: &Value) -> Self {
        let mut map = self.0.as_object().cloned().unwrap_or_default();
        map.retain(|existing, _| !existing.eq_ignore_ascii_case(key));
        map.insert(key.to_owned(), value.clone());
        Self(Value::Object(map))
    }

    /// The document as a runtime would write it.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_string().into_bytes()
    }

    /// The result of the plugin before this one in the chain, or of this attachment's
    /// ADD, when the runtime passed one.
    ///
    /// # Errors
    /// Code 6 with the words of libcni, when it is not a result of `version`.
    pub fn prev_result(&self, version: CniVersion) -> Result<Option<AddResult>> {
        let Some(value) = self.get("prevResult") else {
            return Ok(None);
        };
        AddResult::from_value(value, version)
            .map(Some)
            .map_err(|cause| {
                Error::new(
                    ErrorCode::DECODING,
                    format!("could not parse prevResult: {cause}"),
                )
            })
    }

    /// The addresses of the attachment that a DEL is about, as the runtime knows them: none if it
    /// does not, or if its result cannot be read, which must not keep a pod from ending.
    pub fn known_addresses(&self, version: CniVersion) -> Vec<IpAddr> {
        let result = self.prev_result(version).ok().flatten();
        let ips = result.map(|result| result.ips).unwrap_or_default();
        ips.iter().map(|ip| ip.address.address()).collect()
    }

    /// The attachments that GC must keep, from `cni.dev/valid-attachments` or the older
    /// `cni.dev/attachments`. `null` and `[]` both mean that no attachment is valid.
    /// Without either key there is no list (`None`), and GC must not remove anything.
    ///
    /// # Errors
    /// Code 7 when the list or an entry is malformed: an entry that cannot be read must
    /// not cause a removal.
    pub fn valid_attachments(&self) -> Result<Option<Vec<ValidAttachment>>> {
        const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];
        let Some((key, value)) = KEYS.iter().find_map(|key| Some((*key, self.0.get(key)?))) else {
            return Ok(None);
        };
        let entries = match value {
            Value::Null => return Ok(Some(Vec::new())),
            Value::Array(entries) => entries,
            _ => return Err(Error::config(format!("{key} is not a list"))),
        };
        let parsed = entries.iter().map(|entry| valid_attachment(key, entry));
        parsed.collect::<Result<Vec<_>>>().map(Some)
    }
}

fn valid_attachment(key: &str, entry: &Value) -> Result<ValidAttachment> {
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(rename = "containerID")]
        container_id: String,
        #[serde(default)]
        ifname: String,
    }
    let what = format!("{key}: {entry}");
    let entry: Entry =
        read_value(entry, &what).map_err(|e| Error::config(e.msg).with_details(e.details))?;
    ContainerId::new(&entry.container_id)
        .map_err(|e| Error::config(format!("{what}: {}", e.msg)))?;
    Ok(ValidAttachment {
        container_id: entry.container_id,
        ifname: entry.ifname,
    })
}

/// Whether the list for GC contains the attachment (`container_id`, `ifname`). An empty
/// interface name, in the list or as the argument, matches all interfaces of the
/// container.
pub fn is_listed(valid: &[ValidAttachment], container_id: &str, ifname: &str) -> bool {
    valid.iter().any(|v| {
        v.container_id == container_id
            && (v.ifname.is_empty() || ifname.is_empty() || v.ifname == ifname)
    })
}

fn undecodable(cause: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorCode::DECODING,
        format!("error unmarshall network config: {cause}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_document_that_is_not_an_object_is_refused() {
        for wrong in ["", "[]", "1", "\"x\"", "{", "{} x", "{\"a\":1,}"] {
            let error = Document::parse(wrong.as_bytes()).unwrap_err();
            assert_eq!(error.code, ErrorCode::DECODING, "{wrong}");
            assert!(error.msg.starts_with("error unmarshall network config: "));
        }
    }

    #[test]
    fn a_number_does_not_change_when_it_is_printed_and_read_again() {
        const NUMBER: &str = "111111111111100000000000000000000000000000000\
            000000000000000000000000008198552921648689611";
        let read = document(&format!(r#"{{"ipam":{{"x":{NUMBER}}}}}"#));
        let printed = document(&read.get("ipam").unwrap().to_string());
        assert_eq!(Some(&printed.0), read.get("ipam"));
    }

    #[test]
    fn gc_distinguishes_a_missing_list_from_an_empty_one() {
        let valid = |text: &str| document(text).valid_attachments();
        assert_eq!(valid("{}").unwrap(), None);
        assert_eq!(
            valid(r#"{"cni.dev/valid-attachments":null}"#).unwrap(),
            Some(vec![])
        );
        assert_eq!(
            valid(r#"{"cni.dev/attachments":[]}"#).unwrap(),
            Some(vec![])
        );
        let listed =
            valid(r#"{"cni.dev/valid-attachments":[{"containerID":"c","ifname":"net1"}]}"#);
        let listed = listed.unwrap().unwrap();
        assert!(is_listed(&listed, "c", "net1"));
        assert!(is_listed(&listed, "c", ""));
        assert!(!is_listed(&listed, "c", "net2"));
        for wrong in [
            "{}",
            "7",
            r#"[{"ifname":"net1"}]"#,
            "[3]",
            r#"[{"containerID":"../x"}]"#,
        ] {
            let text = format!("{{\"cni.dev/valid-attachments\":{wrong}}}");
            assert_eq!(
                valid(&text).unwrap_err().code,
                ErrorCode::NETWORK_CONFIG,
                "{wrong}"
            );
        }
    }
}
