//! Removes from the collected files everything that may be a secret. This suite writes no
//! secrets, but networks' configurations and logs may have some.

use serde_json::Value;

/// The replacement of a secret.
const REDACTED: &str = "(redacted)";
/// Parts of the names of secrets, in lower case and without separators.
const SECRET: [&str; 12] = [
    "secret",
    "token",
    "password",
    "passwd",
    "passphrase",
    "credential",
    "privatekey",
    "accesskey",
    "apikey",
    // As in `client-key-data` of a kubeconfig.
    "keydata",
    "authorization",
    "cookie",
];
/// Names of secrets, as words: as parts of other words they mean something else.
const SECRET_WORDS: [&str; 4] = ["pass", "pwd", "psk", "auth"];
/// The names of the members that say what the `value` beside them is.
const NAMES: [&str; 2] = ["name", "key"];
/// The start of AWS' error codes about secrets: `ExpiredToken`, `InvalidClientTokenId`.
const CODES: [&str; 3] = ["Expired", "Invalid", "Missing"];
/// The start of the ids of access keys, also of temporary ones.
const ACCESS_KEYS: [&str; 2] = ["AKIA", "ASIA"];
const ACCESS_KEY_LENGTH: usize = 20;
/// The start of a signed token (JWT): `{"` in base64.
const TOKEN: &str = "eyJ";
/// The markers around a key in PEM.
const BEGIN: &str = "-----BEGIN";
const END: &str = "-----END";

/// A file without secrets: in JSON, which stays valid, the values of keys that name one are
/// replaced; in other text, the rest of a line after such a name. A file that is not text is
/// left out.
pub(super) fn content(content: &[u8]) -> Vec<u8> {
    if let Ok(document) = serde_json::from_slice::<Value>(content) {
        return format!("{:#}\n", value(document)).into_bytes();
    }
    match std::str::from_utf8(content) {
        Ok(content) => text(content).into_bytes(),
        Err(_) => format!("({} bytes that are not text)\n", content.len()).into_bytes(),
    }
}

fn value(document: Value) -> Value {
    match document {
        Value::Object(members) => {
            let mut said = NAMES.iter().filter_map(|name| members.get(*name)?.as_str());
            let is_named = said.any(is_secret);
            let members = members.into_iter().map(|(name, member)| {
                let is_secret = is_secret(&name) || (is_named && name == "value");
                let member = if is_secret && !member.is_boolean() && !member.is_null() {
                    REDACTED.into()
                } else {
                    value(member)
                };
                (text(&name), member)
            });
            Value::Object(members.collect())
        }
        Value::Array(members) => Value::Array(members.into_iter().map(value).collect()),
        Value::String(said) => Value::String(text(&said)),
        other => other,
    }
}

fn is_secret(name: &str) -> bool {
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    if words.any(|word| {
        SECRET_WORDS
            .iter()
            .any(|one| word.eq_ignore_ascii_case(one))
    }) {
        return true;
    }
    let letters = name.chars().filter(|c| c.is_ascii_alphanumeric());
    let name: String = letters.map(|c| c.to_ascii_lowercase()).collect();
    SECRET.iter().any(|secret| name.contains(secret))
}

/// A text without secrets, by lines.
pub(super) fn text(content: &str) -> String {
    // The start of a log may be missing.
    let end = content.find(END);
    let mut is_in_key = end.is_some_and(|end| content.find(BEGIN).is_none_or(|begin| end < begin));
    let mut block = None;
    let mut lines = String::with_capacity(content.len());
    for line in content.split_inclusive('\n') {
        is_in_key = is_in_key || line.contains(BEGIN);
        block = block.filter(|outer| line.trim().is_empty() || indentation(line) > *outer);
        if is_in_key || block.is_some() {
            lines.push_str(&format!("{REDACTED}{}", end_of(line)));
        } else {
            block = opens_block(line).then(|| indentation(line));
            lines.push_str(&of_line(line));
        }
        is_in_key = is_in_key && !line.contains(END);
    }
    lines
}

/// Whether the value of a secret is on the next lines, as YAML has it.
fn opens_block(line: &str) -> bool {
    line.trim_end()
        .rsplit_once(':')
        .is_some_and(|(name, value)| {
            let value = value.trim_start();
            (value.is_empty() || value.starts_with(['|', '>'])) && names_secret(name, ":", value)
        })
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn end_of(line: &str) -> &str {
    &line[line.trim_end_matches('\n').len()..]
}

fn of_line(line: &str) -> String {
    of_json(line).unwrap_or_else(|| of_text(line))
}

/// A line with a JSON document, perhaps after the prefix that a runtime writes before each line
/// of a log.
fn of_json(line: &str) -> Option<String> {
    let (before, json) = line.split_at(line.find('{')?);
    let document: Value = serde_json::from_str(json).ok()?;
    // After the name of a secret, the whole document may be secret.
    if of_text(before) != before {
        return None;
    }
    let shown = value(document.clone());
    // Of equal keys, the document has only the last one.
    let quotes = |json: &str| json.matches('"').count();
    if shown == document && quotes(json) == quotes(&document.to_string()) {
        return Some(line.to_owned());
    }
    Some(format!("{before}{shown}{}", end_of(line)))
}

fn of_text(line: &str) -> String {
    for (place, separator) in line.match_indices([':', '=']) {
        let (before, value) = (&line[..place], &line[place + 1..]);
        if names_secret(before, separator, value) && !value.trim().starts_with(REDACTED) {
            return without_words(&format!("{before}{separator} {REDACTED}{}", end_of(line)));
        }
    }
    without_words(line)
}

/// A line without the words that are secret without a name.
fn without_words(line: &str) -> String {
    without_tokens(&without_access_keys(&without_users(line)))
}

/// Whether the text before the separator ends with the name of a secret.
fn names_secret(before: &str, separator: &str, value: &str) -> bool {
    let before = before.trim_end();
    let is_end = |c: char| c.is_whitespace() || ",{(&?".contains(c);
    let start = before.rfind(is_end).unwrap_or(0);
    let (rest, name) = before.split_at(start);
    let name = name.trim_start_matches(is_end);
    let is_of_error = separator == ":" && value.starts_with(' ');
    is_secret(name) && !(is_of_error && is_subject(name, !rest.trim().is_empty()))
}

/// Whether this word before the cause of an error only mentions a secret without showing it:
/// missing credentials, a file that cannot be read, an error code of AWS.
fn is_subject(name: &str, is_in_sentence: bool) -> bool {
    let is_path = name.trim_start_matches('"').starts_with('/');
    let is_code = CODES.iter().any(|code| name.starts_with(code));
    is_path || is_code || (is_in_sentence && name == "credentials")
}

/// A line without the users and passwords of URLs, and of proxies without a scheme. A password may
/// have every other character that quotes.
fn without_users(line: &str) -> String {
    let is_end = |c: char| c.is_whitespace() || c == '"';
    by_words(line, is_end, |word| {
        let (user, host) = word.split_at(word.rfind('@')?);
        let start = match (user.find("://"), user.find(':')) {
            (Some(scheme), _) => scheme + "://".len(),
            // The name of an image may have a port before its digest.
            (None, Some(password)) if !host.starts_with("@sha256:") => {
                user[..password].rfind('=').map_or(0, |name| name + 1)
            }
            _ => return None,
        };
        Some(format!("{}{REDACTED}{host}", &user[..start]))
    })
}

fn without_access_keys(line: &str) -> String {
    let is_end = |c: char| !c.is_ascii_alphanumeric();
    by_words(line, is_end, |key| {
        let start = ACCESS_KEYS.iter().filter_map(|begin| key.find(begin)).min();
        let start = start.filter(|start| key.len() - start >= ACCESS_KEY_LENGTH)?;
        Some(format!("{}{REDACTED}", &key[..start]))
    })
}

fn without_tokens(line: &str) -> String {
    let is_end = |c: char| !c.is_ascii_alphanumeric() && !".-_".contains(c);
    by_words(line, is_end, |token| {
        let is_token = token.starts_with(TOKEN) && token.matches('.').count() >= 2;
        is_token.then(|| REDACTED.to_owned())
    })
}

/// A line in which `shown` replaces words, which end before the characters for which `is_end` is
/// true.
fn by_words(
    line: &str,
    is_end: impl Fn(char) -> bool + Copy,
    shown: impl Fn(&str) -> Option<String>,
) -> String {
    let words = line.split_inclusive(is_end).map(|part| {
        let word = part.trim_end_matches(is_end);
        let shown = shown(word).unwrap_or_else(|| word.to_owned());
        shown + &part[word.len()..]
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_a_key_that_names_a_secret_is_not_shown() {
        let document = br#"{"ipam": {"apiToken": "x1", "list": [{"aws_secret_access_key": "x2"}]},
            "name": "mgmt", "keepAddresses": true}"#;
        let shown = String::from_utf8(content(document)).unwrap();
        assert!(!shown.contains("x1") && !shown.contains("x2"), "{shown}");
        assert!(shown.contains("mgmt") && shown.contains("keepAddresses"));
    }

    #[test]
    fn what_follows_the_name_of_a_secret_in_a_line_is_not_shown() {
        for line in [
            "Authorization: Bearer x1",
            "level=info token=x1 more=2",
            r#"{"msg":"a", "password":"x1""#,
            "AWS_SECRET_ACCESS_KEY=x1",
            "https://host/?X-Amz-Security-Token=x1",
            "a=1 b=2 session_token = x1",
            "DB_PASS=x1",
            "pwd: x1",
            r#"{"auth":"x1","psk":"x1"}"#,
            r#"{"password":"x1","password":true}"#,
            r#"{"env":[{"name":"AWS_SECRET_ACCESS_KEY","value":"x1"}]}"#,
            "said eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4MSJ9.x1, and no more",
        ] {
            let shown = text(line);
            assert!(!shown.contains("x1"), "{shown}");
        }
        let harmless = "time=2026-01-01T00:00:00Z level=info eni=eni-1 address=10.0.4.70\n";
        assert_eq!(text(harmless), harmless);
    }

    #[test]
    fn what_follows_the_name_of_a_secret_on_the_next_lines_is_not_shown() {
        for indicator in ["", " |", " >-"] {
            let yaml = format!("user:\n  token:{indicator}\n    x1\n\n    x2\n  name: a\n");
            let shown = text(&yaml);
            assert!(!shown.contains("x1") && !shown.contains("x2"), "{shown}");
            assert!(shown.starts_with("user:\n  token:"), "{shown}");
            assert!(shown.ends_with("\n  name: a\n"), "{shown}");
        }
        let harmless = "author: a\npassthrough:\n  - b\n";
        assert_eq!(text(harmless), harmless);
    }

    #[test]
    fn a_document_stays_valid_and_so_does_a_line_of_a_log() {
        let document = br#"{"users": [{"user": {"client-key-data": "x1"}}], "since": 1,
            "said": "the answer has token: x2, and more", "pem": "-----BEGIN KEY-----\nx3\n"}"#;
        let shown: Value = serde_json::from_slice(&content(document)).unwrap();
        assert_eq!(shown["users"][0]["user"]["client-key-data"], REDACTED);
        assert_eq!(shown["since"], 1);
        assert!(
            shown
                .to_string()
                .contains("the answer has token: (redacted)")
        );
        assert!(!shown.to_string().contains("x2") && !shown.to_string().contains("x3"));
        let line = r#"2026-11-27T00:00:00Z stderr F {"level":"info","password":"x1"}"#;
        let shown = text(&format!("{line}\n"));
        let expected = r#"F {"level":"info","password":"(redacted)"}"#;
        assert!(shown.ends_with(&format!("{expected}\n")), "{shown}");
        let harmless = "{\"z\": 1, \"a\":  \"10.0.4.70\"}\n";
        assert_eq!(text(harmless), harmless);
        assert!(!text(r#"token: {"value": "x1"}"#).contains("x1"));
    }

    #[test]
    fn users_of_urls_are_not_shown() {
        for (line, expected) in [
            ("to http://u:x1@proxy:3128/a@b", "to http://(redacted)@b"),
            (
                "to http://u:x1@proxy:3128, or",
                "to http://(redacted)@proxy:3128, or",
            ),
            ("https://x1@host/path", "https://(redacted)@host/path"),
            (
                "HTTPS_PROXY=u:x1=@proxy:1",
                "HTTPS_PROXY=(redacted)@proxy:1",
            ),
            ("to http://u:x1'x@proxy:1", "to http://(redacted)@proxy:1"),
            ("`http://u:x1`<x@proxy`", "`http://(redacted)@proxy`"),
            (r#""u:x1@proxy""#, r#""(redacted)@proxy""#),
            ("host:5000/eni-sync@sha256:0", "host:5000/eni-sync@sha256:0"),
            ("somebody@example.org: hello", "somebody@example.org: hello"),
            (
                "http://[fd00:ec2::254]/latest",
                "http://[fd00:ec2::254]/latest",
            ),
        ] {
            assert_eq!(text(line), expected);
        }
    }

    #[test]
    fn why_there_are_no_credentials_is_shown() {
        for line in [
            "error: there are no AWS credentials: connection refused",
            r#"cannot read "/var/run/secrets/eks/token": Permission denied"#,
            "failed to read /var/run/secrets/eks/token: Permission denied",
            "failed to look at eni-1: ExpiredToken: the token is of yesterday",
        ] {
            assert_eq!(text(line), line);
        }
        assert_eq!(text("credentials: x1"), "credentials: (redacted)");
        assert_eq!(text("a credentials=x1"), "a credentials= (redacted)");
    }

    #[test]
    fn keys_are_not_shown() {
        let pem = "a\n-----BEGIN PRIVATE KEY-----\nx1\n-----END PRIVATE KEY-----\nb\n";
        assert_eq!(text(pem), "a\n(redacted)\n(redacted)\n(redacted)\nb\n");
        assert_eq!(text("id AKIAIOSFODNN7EXAMPLE."), "id (redacted).");
        let words = "ASIA is a word, and ASIAIOSFODNN7EXAMPLE is not";
        assert_eq!(text(words), "ASIA is a word, and (redacted) is not");
        // A log is collected from its end.
        let end = "x1\n-----END PRIVATE KEY-----\nb\n";
        assert_eq!(text(end), "(redacted)\n(redacted)\nb\n");
    }

    #[test]
    fn what_is_not_text_is_counted() {
        assert_eq!(content(&[0xff, 0xfe]), b"(2 bytes that are not text)\n");
    }
}
