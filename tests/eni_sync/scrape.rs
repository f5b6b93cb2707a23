//! Reads the OpenMetrics text of an agent, strictly: whatever does not follow the
//! format fails the test.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::fixture::AwsNode;

pub const ADDRESS: &str = "127.0.0.1:9809";

/// What an agent has answered to `/metrics`.
#[derive(Debug)]
pub struct Scrape {
    /// Name of the family and its type.
    pub families: BTreeMap<String, String>,
    /// Name with labels as they were written, and value.
    pub samples: BTreeMap<String, f64>,
    /// The labels of each family, without `le`.
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

/// Status and body of an answer to GET.
pub fn get(node: &AwsNode, path: &str) -> (u16, String) {
    try_get(node, path).unwrap()
}

/// The same while the port may be on its way from one agent to the next.
pub fn try_get(node: &AwsNode, path: &str) -> io::Result<(u16, String)> {
    get_at(node, ADDRESS, path)
}

/// The same of any server on a node.
pub fn get_at(node: &AwsNode, address: &str, path: &str) -> io::Result<(u16, String)> {
    let (head, body) = ask(node, address, path, address)?;
    Ok((status(&head), body))
}

/// Status, head and body of an answer to who calls the agent's node by this name.
pub fn get_as(node: &AwsNode, path: &str, host: &str) -> (u16, String, String) {
    let (head, body) = ask(node, ADDRESS, path, host).unwrap();
    (status(&head), head, body)
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

fn ask(node: &AwsNode, address: &str, path: &str, host: &str) -> io::Result<(String, String)> {
    let answer = node.node.netns.run(|| {
        let mut stream = TcpStream::connect(address)?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        io::Result::Ok(answer)
    })?;
    let missing = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(missing)?;
    let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    let body = match is_chunked {
        true => joined(body).ok_or_else(missing)?,
        false => body.to_owned(),
    };
    Ok((head.to_owned(), body))
}

/// A body that was sent in chunks, each behind its length in hexadecimal digits.
fn joined(mut chunks: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (length, rest) = chunks.split_once("\r\n")?;
        match usize::from_str_radix(length, 16).ok()? {
            0 => return Some(body),
            length => {
                body.push_str(rest.get(..length)?);
                chunks = rest.get(length..)?.strip_prefix("\r\n")?;
            }
        }
    }
}

impl Scrape {
    pub fn of(node: &AwsNode) -> Self {
        let (status, text) = get(node, "/metrics");
        assert_eq!(status, 200, "{text}");
        Self::parse(&text)
    }

    fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("the text is complete");
        let mut scrape = Self {
            families: BTreeMap::new(),
            samples: BTreeMap::new(),
            labels: BTreeMap::new(),
        };
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                scrape.comment(comment);
            } else {
                scrape.sample(line);
            }
        }
        scrape
    }

    fn comment(&mut self, comment: &str) {
        let words: Vec<&str> = comment.splitn(3, ' ').collect();
        match words[..] {
            ["TYPE", name, kind] => {
                let before = self.families.insert(name.to_owned(), kind.to_owned());
                assert!(before.is_none(), "{name} is there twice");
            }
            ["HELP" | "UNIT", _, _] => {}
            _ => panic!("neither type, help nor unit: {comment}"),
        }
    }

    fn sample(&mut self, line: &str) {
        let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
        let name = series.split('{').next().unwrap();
        let suffixes = ["_total", "_bucket", "_count", "_sum", "_info", ""];
        let family = suffixes.iter().find_map(|suffix| {
            let family = name.strip_suffix(suffix)?;
            self.families
                .contains_key(family)
                .then(|| family.to_owned())
        });
        let family = family.unwrap_or_else(|| panic!("{line} has no type"));
        let names = self.labels.entry(family).or_default();
        if let Some((_, labels)) = series.split_once('{') {
            for label in labels.strip_suffix('}').expect("labels end").split(',') {
                let (key, value) = label.split_once('=').expect("a label has a value");
                assert!(value.len() >= 2 && value.starts_with('"') && value.ends_with('"'));
                if key != "le" {
                    names.insert(key.to_owned());
                }
            }
        }
        let value = value
            .parse()
            .unwrap_or_else(|_| panic!("no number: {line}"));
        let before = self.samples.insert(series.to_owned(), value);
        assert!(before.is_none(), "{series} is there twice");
    }

    /// The value of a sample; 0 when it is not there.
    pub fn value(&self, series: &str) -> f64 {
        let value = self.samples.get(&format!("eni_sync_{series}"));
        value.copied().unwrap_or_default()
    }

    /// Every family as the documentation writes it: name, type, labels.
    pub fn documented(&self) -> BTreeSet<(String, String, Vec<String>)> {
        let families = self.families.iter().map(|(name, kind)| {
            let suffix = match kind.as_str() {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let labels = self.labels.get(name).into_iter().flatten().cloned();
            (format!("{name}{suffix}"), kind.clone(), labels.collect())
        });
        families.collect()
    }
}
