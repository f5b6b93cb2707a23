//! Files that consist of 64-bit words: reading, writing, and a checksum that shows whether a
//! file was written by another program or only in part.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of a word.
const WORD: usize = 8;
/// An odd number with irregular bits: 2^64 divided by the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Reads `count` words, beginning with the word number `first` of the file.
///
/// # Errors
/// Those of the file system; `UnexpectedEof` when the file is shorter.
pub fn read(file: &File, first: usize, count: usize) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; count * WORD];
    file.read_exact_at(&mut bytes, (first * WORD) as u64)?;
    Ok(parse(&bytes))
}

/// Writes words, beginning at the word number `first` of the file.
///
/// # Errors
/// Those of the file system.
pub fn write(file: &File, first: usize, words: &[u64]) -> io::Result<()> {
    file.write_all_at(&bytes(words), (first * WORD) as u64)
}

/// The bytes of these words.
pub fn bytes(words: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(words.len() * WORD);
    for word in words {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The words of these bytes; the last one is filled up with zeros.
pub fn parse(bytes: &[u8]) -> Vec<u64> {
    words_of(bytes).collect()
}

fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (chunks, rest) = bytes.as_chunks();
    let mut last = [0; WORD];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let last = (!rest.is_empty()).then_some(last);
    let words = chunks.iter().copied().chain(last);
    words.map(u64::from_le_bytes)
}

/// A checksum that changes whenever one word changes, and almost always when more do.
pub fn sum(seed: u64, words: &[u64]) -> u64 {
    sum_up(seed, words.iter().copied())
}

/// The checksum of a text and its length.
pub fn sum_of_text(seed: u64, text: &[u8]) -> u64 {
    sum_up(seed ^ text.len() as u64, words_of(text))
}

fn sum_up(seed: u64, words: impl Iterator<Item = u64>) -> u64 {
    let sum = words.fold(seed, |sum, word| {
        (sum.rotate_left(26) ^ word).wrapping_mul(MULTIPLIER)
    });
    let sum = (sum ^ (sum >> 32)).wrapping_mul(MULTIPLIER);
    sum ^ (sum >> 29)
}
