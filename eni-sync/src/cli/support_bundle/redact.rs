//! Takes out of what is collected whatever may be a secret. This suite writes none, but a
//! network's configuration and a log are of others.

use serde_json::Value;

/// What is in the place of a secret.
const REDACTED: &str = "(redacted)";
/// What is in the name of a secret, in lower case and without separators.
const SECRET: [&str; 10] = [
    "secret",
    "token",
    "password",
    "passwd",
    "passphrase",
    "credential",
    "privatekey",
    "accesskey",
    "apikey",
    "authorization",
];
/// What ids of access keys begin with, temporary ones too.
const ACCESS_KEYS: [&str; 2] = ["AKIA", "ASIA"];
const ACCESS_KEY_LENGTH: usize = 20;

/// A file without secrets: the values of keys that name one, in JSON, and the rest of a line
/// behind such a name, in any other text. What is not text is left out.
pub(super) fn content(content: &[u8]) -> Vec<u8> {
    if let Ok(mut document) = serde_json::from_slice::<Value>(content) {
        value(&mut document);
        return text(&format!("{document:#}\n")).into_bytes();
    }
    match std::str::from_utf8(content) {
        Ok(content) => text(content).into_bytes(),
        Err(_) => format!("({} bytes that are not text)\n", content.len()).into_bytes(),
    }
}

fn value(document: &mut Value) {
    match document {
        Value::Object(members) => {
            for (name, member) in members {
                match is_secret(name) && !member.is_boolean() {
                    true => *member = REDACTED.into(),
                    false => value(member),
                }
            }
        }
        Value::Array(members) => members.iter_mut().for_each(value),
        _ => {}
    }
}

fn is_secret(name: &str) -> bool {
    let letters = name.chars().filter(|c| c.is_ascii_alphanumeric());
    let name: String = letters.map(|c| c.to_ascii_lowercase()).collect();
    SECRET.iter().any(|secret| name.contains(secret))
}

/// A text without secrets, by lines.
pub(super) fn text(content: &str) -> String {
    let mut is_in_key = false;
    let mut lines = String::with_capacity(content.len());
    for line in content.split_inclusive('\n') {
        let is_begin = line.contains("-----BEGIN");
        is_in_key = is_in_key || is_begin;
        match is_in_key {
            true => lines.push_str(&format!("{REDACTED}\n")),
            false => lines.push_str(&of_line(line)),
        }
        is_in_key = is_in_key && !line.contains("-----END");
    }
    lines
}

fn of_line(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    for (place, separator) in line.match_indices([':', '=']) {
        let name = line[..place]
            .trim_end()
            .rsplit(|c: char| c.is_whitespace() || ",{(&?".contains(c));
        let name = name.take(1).collect::<String>();
        if is_secret(&name) && !line[place + 1..].trim().starts_with(REDACTED) {
            shown.push_str(&line[..place]);
            shown.push_str(&format!("{separator} {REDACTED}\n"));
            return without_access_keys(&shown);
        }
    }
    without_access_keys(line)
}

fn without_access_keys(line: &str) -> String {
    let mut shown = line.to_owned();
    for begin in ACCESS_KEYS {
        while let Some(place) = shown.find(begin) {
            let rest = shown[place..].chars();
            let length = rest.take_while(char::is_ascii_alphanumeric).count();
            if length < ACCESS_KEY_LENGTH {
                break;
            }
            shown.replace_range(place..place + length, REDACTED);
        }
    }
    shown
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
        ] {
            let shown = text(line);
            assert!(!shown.contains("x1"), "{shown}");
        }
        let harmless = "time=2026-01-01T00:00:00Z level=info eni=eni-1 address=10.0.4.70\n";
        assert_eq!(text(harmless), harmless);
    }

    #[test]
    fn keys_are_not_shown() {
        let pem = "a\n-----BEGIN PRIVATE KEY-----\nx1\n-----END PRIVATE KEY-----\nb\n";
        assert_eq!(text(pem), "a\n(redacted)\n(redacted)\n(redacted)\nb\n");
        assert_eq!(text("id AKIAIOSFODNN7EXAMPLE."), "id (redacted).");
        assert_eq!(text("ASIA is a word"), "ASIA is a word");
    }

    #[test]
    fn what_is_not_text_is_counted() {
        assert_eq!(content(&[0xff, 0xfe]), b"(2 bytes that are not text)\n");
    }
}
