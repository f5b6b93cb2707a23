//! The pages about decisions: each is complete, short, and in the list.

use fixtures::documents::{files, root};

/// The headings of a page, in this order, and nothing besides.
const HEADINGS: [&str; 4] = ["Status", "Context", "Decision", "Consequences"];
/// What is longer belongs into another document.
const LINES: usize = 30;

#[test]
fn every_decision_is_a_short_page_of_one_form_and_in_the_list() {
    let mut pages = files(&root().join("docs/adr"), "md");
    let list = pages.pop().expect("the list is the last of them");
    assert!(
        list.0.ends_with("README.md") && pages.len() > 10,
        "{list:?}"
    );
    for (number, (path, page)) in (1..).zip(&pages) {
        let name = path
            .file_name()
            .expect("a file has a name")
            .to_string_lossy();
        assert!(name.starts_with(&format!("{number:04}-")), "{name}");
        let title = page.lines().next().expect("a page has a title");
        let title = title
            .strip_prefix(&format!("# {number:04}: "))
            .expect("the number");
        let row = format!("| [{number:04}]({name}) | {title} |\n");
        assert!(list.1.contains(&row), "the list lacks {row}");
        let headings = page.lines().filter_map(|line| line.strip_prefix("## "));
        assert_eq!(headings.collect::<Vec<&str>>(), HEADINGS, "{name}");
        assert!(page.lines().count() <= LINES, "{name}");
    }
    let rows = list
        .1
        .lines()
        .filter(|line| line.starts_with("| ["))
        .count();
    assert_eq!(rows, pages.len());
}
