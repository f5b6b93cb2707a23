//! Names and aliases of links as text. For the kernel they are bytes, and a container may
//! choose bytes that are not valid UTF-8. Each such byte is replaced by a character that
//! stands for it, so that the bytes can be restored.

/// The first of 256 characters of a private use area, each of which stands for a byte.
const FIRST: u32 = 0xF700;

/// The text of these bytes, which end with the first NUL.
pub(super) fn from_bytes(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    let bytes = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match byte_of(character) {
                // The name has one of these characters itself: its bytes are replaced,
                // too.
                Some(_) => {
                    push_placeholders(character.encode_utf8(&mut [0; 4]).as_bytes(), &mut text)
                }
                None => text.push(character),
            }
        }
        push_placeholders(chunk.invalid(), &mut text);
    }
    text
}

/// The bytes of a text that [`from_bytes`] has made.
pub(super) fn to_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for character in text.chars() {
        match byte_of(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

fn push_placeholders(bytes: &[u8], text: &mut String) {
    let characters = bytes.iter().map(|byte| FIRST + u32::from(*byte));
    text.extend(characters.filter_map(char::from_u32));
}

fn byte_of(character: char) -> Option<u8> {
    u8::try_from(u32::from(character).checked_sub(FIRST)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_becomes_text_and_the_same_bytes_again() {
        for bytes in [
            &b"net1"[..],
            "ü".as_bytes(),
            b"\xff\xfe",
            b"a\xc3",
            "\u{F7FF}\u{F6FF}".as_bytes(),
            b"",
        ] {
            assert_eq!(to_bytes(&from_bytes(bytes)), bytes, "{bytes:?}");
        }
        assert_eq!(from_bytes(b"net1\0"), "net1");
        assert_eq!(from_bytes("ü".as_bytes()), "ü");
        assert_ne!(from_bytes(b"\xff"), from_bytes("\u{F7FF}".as_bytes()));
    }
}
