//! Text of others on its way to a terminal or a log: names of pods and networks, and what
//! other programs have answered. A control character in it could hide or forge what
//! stands there. All that is said on stderr leaves by [`say!`](crate::say).

use std::borrow::Cow;
use std::fmt::Write;
use std::io;
use std::sync::OnceLock;

/// Who gets the lines of this process instead of stderr.
static LISTENER: OnceLock<fn(&str)> = OnceLock::new();

/// `text` with every character that a terminal obeys, instead of showing it, in the form
/// `\u{1b}`: line feeds too, so that one message stays one line.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match is_obeyed(character) {
            true => shown.extend(character.escape_unicode()),
            false => shown.push(character),
        }
    }
    Cow::Owned(shown)
}

/// Says one line on stderr, formatted as by `format!`: what names of others would have a
/// terminal do is shown.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {
        $crate::text::say_line(&format!($($text)*))
    };
}

/// Gives all that [`say!`](crate::say) says from now on to `listener`: a daemon has a log
/// with times and levels, which a plugin has not. The first listener stays.
pub fn hand_over(listener: fn(&str)) {
    LISTENER.get_or_init(|| listener);
}

/// What [`say!`](crate::say) does with its line. Nobody may be there to read it.
pub fn say_line(line: &str) {
    if let Some(listener) = LISTENER.get() {
        return listener(line);
    }
    let line = format!("{}\n", printable(line));
    // What is said is said besides: a command does its work also where nobody listens.
    io::Write::write_all(&mut io::stderr().lock(), line.as_bytes()).ok();
}

/// Lines of others, each as [`printable`] shows it.
pub fn printable_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(printable).collect();
    lines.join("\n")
}

/// A document of JSON in which nothing is obeyed by a terminal, and which means the same:
/// outside of its strings there is no such character but the line feed.
pub fn printable_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character != '\n' && is_obeyed(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // A string takes whatever is written.
                write!(shown, "\\u{unit:04x}").ok();
            }
        } else {
            shown.push(character);
        }
    }
    shown
}

/// The value of a field in a line of a log: as it is where it is one plain word, otherwise a
/// string of JSON. It can neither end the line nor look like another field.
pub fn field(value: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '=' | '\\');
    if !value.is_empty() && value.chars().all(is_plain) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(printable_json(&serde_json::Value::from(value).to_string()))
}

/// Control characters, and those that change the direction or the end of a line. Source:
/// Unicode, general category Cc, and the properties Bidi_Control and Line_Break=BK.
fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown() {
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
    fn a_document_means_the_same() {
        let value = serde_json::json!({"pod": "a\u{9b}\u{202e}\x7f\x1b\n"});
        let shown = printable_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!shown.chars().any(|c| c != '\n' && is_obeyed(c)), "{shown}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }
}
