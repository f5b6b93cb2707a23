//! Untrusted text for a terminal or a log: names of pods and networks, and the output of
//! other programs. A control character in it could hide or forge lines, so it is escaped.
//! Everything that is written to stderr goes through [`say!`](crate::say).

use std::borrow::Cow;
use std::fmt::Write;
use std::io;
use std::sync::OnceLock;

/// The function that gets the lines of this process instead of stderr.
static LISTENER: OnceLock<fn(&str)> = OnceLock::new();

/// `text` with every control character escaped in the form `\u{1b}`: line feeds too, so that
/// one message stays one line.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_control_character) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match is_control_character(character) {
            true => shown.extend(character.escape_unicode()),
            false => shown.push(character),
        }
    }
    Cow::Owned(shown)
}

/// Writes one line to stderr, formatted as by `format!`, with its control characters
/// escaped.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {
        $crate::text::say_line(&format!($($text)*))
    };
}

/// From now on [`say!`](crate::say) passes its lines to `listener` instead of stderr, for a
/// daemon whose log has times and levels. Only the first call has an effect.
pub fn hand_over(listener: fn(&str)) {
    LISTENER.get_or_init(|| listener);
}

/// Writes a line for [`say!`](crate::say). An error of stderr is ignored.
pub fn say_line(line: &str) {
    if let Some(listener) = LISTENER.get() {
        return listener(line);
    }
    let line = format!("{}\n", printable(line));
    // Messages are not the work of a command: it does that also when stderr is closed.
    io::Write::write_all(&mut io::stderr().lock(), line.as_bytes()).ok();
}

/// Untrusted lines, each escaped as by [`printable`].
pub fn printable_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(printable).collect();
    lines.join("\n")
}

/// A JSON document with its control characters escaped as `\u001b`, with the same meaning.
/// `text` must have no control character but the line feed outside of its strings, as
/// serde_json writes it.
pub fn printable_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character != '\n' && is_control_character(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a `String` cannot fail.
                write!(shown, "\\u{unit:04x}").ok();
            }
        } else {
            shown.push(character);
        }
    }
    shown
}

/// The value of a field in a log line: unchanged if it is one plain word, otherwise a JSON
/// string. It can neither end the line nor look like another field.
pub fn field(value: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '=' | '\\');
    if !value.is_empty() && value.chars().all(is_plain) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(printable_json(&serde_json::Value::from(value).to_string()))
}

/// Control characters, and those that change the direction or the end of a line. Source:
/// Unicode, general category Cc, and the properties Bidi_Control and Line_Break=BK.
fn is_control_character(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        for (text, shown) in [
            ("pod ä", "pod ä"),
            ("\x1b[2Jx", "\\u{1b}[2Jx"),
            ("a\nb\r\u{9b}c\x7f", "a\\u{a}b\\u{d}\\u{9b}c\\u{7f}"),
            ("\u{202e}b", "\\u{202e}b"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn a_field_is_one_word_or_in_quotes() {
        for (value, shown) in [
            ("10.0.4.71/24", "10.0.4.71/24"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("a=b", "\"a=b\""),
            ("a\nb\u{202e}\"", "\"a\\nb\\u202e\\\"\""),
        ] {
            assert_eq!(field(value), shown);
        }
    }

    #[test]
    fn an_escaped_document_has_the_same_meaning() {
        let value = serde_json::json!({"pod": "a\u{9b}\u{202e}\x7f\x1b\n"});
        let shown = printable_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(
            !shown.chars().any(|c| c != '\n' && is_control_character(c)),
            "{shown}"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }
}
