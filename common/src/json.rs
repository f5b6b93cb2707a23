//! JSON documents in the form in which libcni prints them.

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer as JsonSerializer};

/// A JSON text as libcni prints it: four spaces of indentation, no line end, and
/// `<`, `>` and `&` escaped.
pub fn to_text<T: Serialize>(document: &T) -> String {
    let mut bytes = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"    ");
    let mut serializer = JsonSerializer::with_formatter(&mut bytes, formatter);
    // The documents have only text keys, so only the writer could fail, and it writes to
    // memory.
    if document.serialize(&mut serializer).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    // Outside of strings these three characters do not occur in JSON.
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}
