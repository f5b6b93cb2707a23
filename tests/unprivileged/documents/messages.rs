//! `docs/messages.md` has every text that the programs show: `docs/messages.py` makes it.

use std::fs;
use std::process::Command;

use fixtures::documents::root;

/// What the program prints about these sources.
fn made() -> String {
    let output = Command::new(root().join("docs/messages.py"))
        .output()
        .expect("it can be executed");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("the sources are text")
}

#[test]
fn every_text_of_the_programs_is_on_the_page_of_messages() {
    let page = fs::read_to_string(root().join("docs/messages.md")).expect("it can be read");
    let made = made();
    let (page, made): (Vec<&str>, Vec<&str>) = (page.lines().collect(), made.lines().collect());
    let is_other = |line: &&&str| !page.contains(line);
    assert_eq!(made.iter().find(is_other), None, "not on the page");
    assert_eq!(
        page, made,
        "make it anew: docs/messages.py >docs/messages.md"
    );
}

/// Texts of each program in the forms in which sources write them: in one line and in several,
/// with names of values and without, with quotation marks.
#[test]
fn texts_are_listed_as_users_see_them() {
    let made = made();
    for text in [
        "- `failed to open netns …: failed to Statfs …`",
        "- `a table is a number from 1 to 4294967295, and not 253 to 255`",
        "- `it is true, false or an object with \"table\" and \"priority\"`",
        "- `… has no carrier after … s: its addresses are not announced`",
        "- `unexpected argument …; see … --help`",
    ] {
        assert!(made.lines().any(|line| line == text), "{text}");
    }
}
