//! Reads network configurations from files with NetworkAttachmentDefinitions, as YAML or JSON,
//! and from a CNI configuration directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::cli::input;

/// The extensions of the files that a runtime reads in its configuration directory.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// One network configuration, or why it cannot be read.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its name and origin.
    pub(crate) subject: String,
    /// The configuration, or configuration list.
    pub(crate) document: Result<Value, String>,
    /// Whether the configuration is in a file on the nodes, and not in the
    /// NetworkAttachmentDefinition.
    is_elsewhere: bool,
}

impl Source {
    /// A configuration that was found on this node without a file of its own.
    pub(super) fn found(subject: String, document: Value) -> Self {
        Self {
            subject,
            document: Ok(document),
            is_elsewhere: false,
        }
    }
}

/// The configurations in these files and this directory.
pub(crate) fn read(files: &[PathBuf], directory: Option<&Path>) -> Vec<Source> {
    let mut sources: Vec<Source> = files.iter().flat_map(|path| of_file(path)).collect();
    if directory.is_some() {
        sources.retain(|source| !source.is_elsewhere);
    }
    match directory.map(|directory| (directory, list(directory))) {
        None => {}
        Some((_, Ok(paths))) => sources.extend(paths.iter().flat_map(|path| of_file(path))),
        Some((directory, Err(cause))) => sources.push(Source {
            subject: directory.display().to_string(),
            document: Err(cause.to_string()),
            is_elsewhere: false,
        }),
    }
    sources
}

fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?;
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths?;
    paths.retain(|path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
    });
    paths.sort();
    Ok(paths)
}

fn of_file(path: &Path) -> Vec<Source> {
    let origin = path.display().to_string();
    let documents = input::text(path)
        .map_err(|cause| cause.to_string())
        .and_then(|text| parse(&text));
    match documents {
        Ok(documents) => documents
            .into_iter()
            .flat_map(|document| networks(document, &origin))
            .collect(),
        Err(why) => vec![Source {
            subject: origin,
            document: Err(why),
            is_elsewhere: false,
        }],
    }
}

/// The documents in a text: one JSON document, or several YAML documents.
fn parse(text: &str) -> Result<Vec<Value>, String> {
    // Most JSON is YAML, but not with tabs in it.
    let json = match serde_json::from_str(text) {
        Ok(document) => return Ok(vec![document]),
        Err(cause) => cause,
    };
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize);
    let documents: Result<Vec<Value>, _> = documents.collect();
    documents.map_err(|cause| match text.trim_start().starts_with('{') {
        true => json.to_string(),
        false => cause.to_string(),
    })
}

/// The configurations in a document; none in a Kubernetes object of another kind.
fn networks(document: Value, origin: &str) -> Vec<Source> {
    let kind = document["kind"].as_str().unwrap_or_default();
    if document.is_null() {
        return Vec::new();
    }
    if let Some(items) = document["items"]
        .as_array()
        .filter(|_| kind.ends_with("List"))
    {
        let items = items.iter().cloned();
        return items.flat_map(|item| networks(item, origin)).collect();
    }
    if kind == "NetworkAttachmentDefinition" {
        return vec![definition(&document, origin)];
    }
    if !kind.is_empty() {
        return Vec::new();
    }
    let name = document["name"].as_str().unwrap_or("a network");
    let is_network = document["plugins"].is_array() || document["type"].is_string();
    vec![Source {
        is_elsewhere: false,
        subject: format!("{name} ({origin})"),
        document: match is_network {
            true => Ok(document),
            false => {
                Err("it is not a network configuration: it has neither plugins nor type".into())
            }
        },
    }]
}

/// The configuration in a NetworkAttachmentDefinition. If the configuration has no name, that
/// of the object is used, as in Multus.
fn definition(document: &Value, origin: &str) -> Source {
    let metadata = &document["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    let subject = match metadata["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{name} ({origin})"),
        None => format!("{name} ({origin})"),
    };
    let parsed = match document["spec"]["config"].as_str() {
        Some(text) => serde_json::from_str(text).map_err(|cause| format!("spec.config: {cause}")),
        None => Err("it has no spec.config; if the nodes have its file, see --cni-conf-dir".into()),
    };
    Source {
        is_elsewhere: document["spec"]["config"].is_null(),
        subject,
        document: parsed.map(|mut configuration: Value| {
            if let Some(map) = configuration.as_object_mut() {
                map.entry("name").or_insert_with(|| name.into());
            }
            configuration
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subjects(text: &str) -> Vec<(String, bool)> {
        let documents = parse(text).unwrap().into_iter();
        let sources = documents.flat_map(|document| networks(document, "x"));
        sources.map(|s| (s.subject, s.document.is_ok())).collect()
    }

    #[test]
    fn definitions_are_found_in_lists_and_among_other_things() {
        let yaml = "kind: Service\n---\nkind: NetworkAttachmentDefinition\nmetadata: {name: a}\n\
                    spec: {config: '{\"type\": \"ipvlan\"}'}\n---\n";
        assert_eq!(subjects(yaml), [("a (x)".to_owned(), true)]);
        let json = "{\"kind\":\"List\",\n\t\"items\":[{\"kind\":\"NetworkAttachmentDefinition\",\
                    \"metadata\":{\"name\":\"a\",\"namespace\":\"n\"},\"spec\":{}}]}";
        assert_eq!(subjects(json), [("n/a (x)".to_owned(), false)]);
        assert_eq!(
            subjects("{\"name\":\"m\",\"plugins\":[]}"),
            [("m (x)".to_owned(), true)]
        );
        assert_eq!(subjects("{}"), [("a network (x)".to_owned(), false)]);
    }

    #[test]
    fn what_cannot_be_read_says_why_in_its_own_language() {
        let json = parse("{\"a\": 1").unwrap_err();
        assert!(json.starts_with("EOF while parsing an object"), "{json}");
        let yaml = parse("a: [").unwrap_err();
        assert!(yaml.contains("did not find expected"), "{yaml}");
    }
}
