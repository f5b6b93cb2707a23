//! Our JSON documents, in the form in which libcni prints them.

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer as JsonSerializer};

/// A JSON text as libcni prints it: four spaces of indentation, no line end, and
/// `<`, `>` and `&` escaped.
pub fn to_text<T: Serialize>(document: &T) -> String {
    let mut bytes = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"    ");
    let mut serializer = JsonSerializer::with_formatter(&mut bytes, formatter);
    // Our documents have text keys and no maps of other types, so the only way to
    // fail would be the writer, and that is memory.
    if document.serialize(&mut serializer).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    // Outside of texts these three characters do not occur in JSON.
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}
