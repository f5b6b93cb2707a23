//! The glossary beside the other documents and the code.

use std::collections::BTreeSet;
use std::fs;

use fixtures::documents::{pages, root};

use super::code;

/// The words of the two tables: those of the documents and those of the code.
fn words() -> (Vec<String>, Vec<String>) {
    let page = fs::read_to_string(root().join("docs/glossary.md")).expect("it can be read");
    let (documents, sources) = page
        .split_once("In the source code only:")
        .expect("the page has two tables");
    let words = |table: &str| {
        let rows = table.lines().skip_while(|line| !line.starts_with("|---"));
        let rows = rows.skip(1).filter_map(|line| line.strip_prefix("| "));
        let words =
            rows.filter_map(|row| Some(row.split_once(" | ")?.0.trim_matches('`').to_owned()));
        words.collect()
    };
    (words(documents), words(sources))
}

#[test]
fn the_glossary_is_in_alphabetical_order() {
    let (documents, sources) = words();
    assert!(documents.len() > 30 && sources.len() > 3);
    assert!(
        documents.is_sorted_by_key(|word| word.to_lowercase()),
        "{documents:?}"
    );
    assert!(sources.is_sorted(), "{sources:?}");
}

#[test]
fn the_glossary_has_words_that_are_used_and_no_others() {
    let pages = pages().into_iter();
    let others = pages.filter(|(path, _)| !path.ends_with("glossary.md"));
    let text: String = others.map(|(_, text)| text.to_lowercase() + "\n").collect();
    let (documents, sources) = words();
    let unused = documents
        .iter()
        .filter(|word| !text.contains(&word.to_lowercase()));
    assert_eq!(
        unused.collect::<BTreeSet<_>>(),
        BTreeSet::new(),
        "no page has these"
    );
    let code = code();
    let unused = sources
        .iter()
        .filter(|word| !code.contains(&format!(" {word}")));
    assert_eq!(
        unused.collect::<BTreeSet<_>>(),
        BTreeSet::new(),
        "no source has these"
    );
}
