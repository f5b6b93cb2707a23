//! What `make docs` makes a site of: `docs/SUMMARY.md` has every page, and no page of it leads
//! to what the site does not have. The links of the site itself are checked when it is made.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fixtures::documents::{markdown, root};

use super::targets;

fn summary() -> PathBuf {
    root().join("docs/SUMMARY.md")
}

/// The files that a page leads to, with the links.
fn linked(page: &Path) -> Vec<(String, PathBuf)> {
    let text = fs::read_to_string(page).expect("it can be read");
    let directory = page.parent().expect("a file is in a directory");
    let links = targets(&text).into_iter().filter_map(|target| {
        let path = target.split('#').next().unwrap_or_default();
        let is_file = !path.is_empty() && !path.contains(':');
        let path = is_file.then(|| directory.join(path).canonicalize())?;
        Some((target, path.expect("every link leads somewhere")))
    });
    links.collect()
}

#[test]
fn the_summary_has_every_page_once() {
    let listed: Vec<PathBuf> = linked(&summary()).into_iter().map(|(_, to)| to).collect();
    let pages: BTreeSet<&PathBuf> = listed.iter().collect();
    assert_eq!(pages.len(), listed.len(), "{listed:?}");
    let documents = markdown(&root().join("docs").canonicalize().expect("it exists"));
    for page in documents
        .keys()
        .filter(|page| !page.ends_with("SUMMARY.md"))
    {
        assert!(pages.contains(page), "docs/SUMMARY.md lacks {page:?}");
    }
}

#[test]
fn no_page_of_the_summary_leads_out_of_the_site() {
    let pages: BTreeSet<PathBuf> = linked(&summary()).into_iter().map(|(_, to)| to).collect();
    assert!(pages.len() > 40, "{pages:?}");
    for page in &pages {
        for (link, to) in linked(page) {
            let is_page = to.extension().is_some_and(|end| end == "md");
            assert!(
                to.is_file(),
                "{page:?}: {link} is a directory; name a file in it"
            );
            assert!(
                !is_page || pages.contains(&to),
                "docs/SUMMARY.md lacks {to:?}"
            );
        }
    }
}
