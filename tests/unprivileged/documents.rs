//! What the documents say beside what is there: links lead somewhere, and what is shown is a
//! file in `examples`, which other tests execute. `every_key` is about the tables of keys, `decisions`
//! about `docs/adr`, `glossary` and `contributing` about the pages of these names, `book` about the site,
//! `messages` about what the programs say, `arrows` about what the READMEs of the crates promise. What
//! a program has to run for is in the target `host`.

mod arrows;
mod book;
mod contributing;
mod decisions;
mod every_key;
mod glossary;
mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fixtures::documents::{examples, files, markdown, pages, recipe, root};

/// The crates whose programs users have, and what these have in common.
const CRATES: [&str; 5] = [
    "common",
    "eni-sync",
    "host-device",
    "host-local-ipam",
    "ipvlan",
];

/// The code blocks in this language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let start = format!("```{language}\n");
    let blocks = page.split(start.as_str()).skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap_or_default())
        .collect()
}

#[test]
fn every_network_and_file_that_a_page_shows_is_an_example() {
    let mut texts = examples("", "yaml");
    for directory in ["agent", "ranges"] {
        texts.extend(examples(directory, "json"));
    }
    for directory in ["pods", "helm"] {
        texts.extend(examples(directory, "yaml"));
    }
    let mut unseen: BTreeSet<&str> = texts.iter().map(|(_, text)| text.as_str()).collect();
    for (path, page) in pages() {
        for block in [blocks(&page, "yaml"), blocks(&page, "json")].concat() {
            let is_example = texts.iter().any(|(_, text)| text == block);
            assert!(is_example, "{path:?} shows what no example has:\n{block}");
            unseen.remove(block);
        }
    }
    assert_eq!(unseen, BTreeSet::new(), "no page shows these");
}

/// The names of the sources in a directory and below it.
fn sources_below(directory: &Path) -> BTreeSet<String> {
    let mut names = sources_in(directory);
    for entry in fs::read_dir(directory).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            names.extend(sources_below(&path));
        }
    }
    names
}

fn sources_in(directory: &Path) -> BTreeSet<String> {
    let names = files(directory, "rs").into_iter().map(|(path, _)| {
        let name = path.file_name().expect("a file has a name");
        name.to_string_lossy().into_owned()
    });
    names.collect()
}

#[test]
fn the_map_of_a_crate_has_its_files_and_no_others() {
    for name in CRATES {
        let readme = fs::read_to_string(root().join(name).join("README.md"));
        let readme = readme.expect("it can be read");
        let named = readme.split('`').filter(|text| text.ends_with(".rs"));
        let named = named.filter_map(|text| text.rsplit('/').next());
        let named: BTreeSet<String> = named.map(str::to_owned).collect();
        // A directory may stand for what is in it.
        let mut own = sources_in(&root().join(name).join("src"));
        own.remove("lib.rs");
        assert_eq!(
            &own - &named,
            BTreeSet::new(),
            "{name}/README.md lacks these"
        );
        let mut there = sources_below(&root().join(name).join("src"));
        there.extend(sources_below(&root().join("tests")));
        assert_eq!(&named - &there, BTreeSet::new(), "{name} lacks these");
    }
}

#[test]
fn the_readme_is_read_in_a_few_minutes() {
    let readme = fs::read_to_string(root().join("README.md")).expect("it can be read");
    assert!(readme.lines().count() <= 150);
}

#[test]
fn the_published_network_is_shown_unchanged() {
    let published = fs::read_to_string(root().join("tests/data/ipvlan-conf-1.yaml"));
    let readme = fs::read_to_string(root().join("README.md")).expect("it can be read");
    assert_eq!(
        blocks(&readme, "yaml")[0],
        published.expect("it can be read")
    );
}

#[test]
fn the_picture_is_what_its_script_makes() {
    let made = Command::new("python3")
        .arg(root().join("docs/picture.py"))
        .output()
        .expect("python3 can be started");
    let kept = fs::read(root().join("docs/picture.svg")).expect("it can be read");
    assert!(made.status.success(), "{made:?}");
    assert!(made.stdout == kept, "run docs/picture.py >docs/picture.svg");
}

/// The code of all programs as one text, with continued and escaped texts as they are printed.
fn code() -> String {
    let mut code = String::new();
    for directory in CRATES.map(|name| root().join(name).join("src")) {
        add_code(&directory, &mut code);
    }
    let mut joined = String::new();
    for (number, part) in code.split("\\\n").enumerate() {
        joined += if number == 0 { part } else { part.trim_start() };
    }
    joined.replace("\\\"", "\"")
}

fn add_code(directory: &Path, code: &mut String) {
    for (_, text) in files(directory, "rs") {
        let key = text.split_once("const KEY: &str = \"");
        let key = key.and_then(|(_, rest)| rest.split_once('"'));
        *code += &text.replace("{KEY}", key.map_or("{KEY}", |(key, _)| key));
    }
    for entry in fs::read_dir(directory).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            add_code(&path, code);
        }
    }
}

/// The texts of errors in a row of troubleshooting, in parts: what is between them differs
/// each time, or is too short to be looked for.
fn parts_of_errors(line: &str) -> Vec<String> {
    let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
    let texts = if cells.len() == 4 { cells[1] } else { cells[0] };
    let texts = texts.split('`').skip(1).step_by(2);
    let parts = texts.flat_map(|text| text.split('…')).map(str::trim);
    let parts = parts.filter(|part| part.len() > 10);
    parts.map(str::to_owned).collect()
}

#[test]
fn every_error_text_in_troubleshooting_is_one_of_the_code() {
    let page = root().join("docs/troubleshooting.md");
    let page = fs::read_to_string(page).expect("it can be read");
    let code = code();
    let mut unknown = Vec::new();
    let mut count = 0;
    for part in page
        .lines()
        .filter(|line| line.starts_with('|'))
        .flat_map(parts_of_errors)
    {
        // A word such as `is` may stand where several texts have it in common.
        let (_, rest) = part.split_once(' ').unwrap_or_default();
        let is_printed = [part.as_str(), rest];
        let is_printed = is_printed
            .iter()
            .any(|text| text.len() > 8 && code.contains(text));
        count += 1;
        if !is_printed {
            unknown.push(part);
        }
    }
    assert!(count > 60, "the page has {count} texts");
    assert_eq!(unknown, [""; 0], "no program prints these");
}

/// The text without its code, which has no links.
fn without_code(page: &str) -> String {
    let mut prose = String::new();
    let mut is_code = false;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code && !line.starts_with("    ") {
            // Every second part is between backquotes.
            prose.extend(line.split('`').step_by(2));
            prose.push('\n');
        }
    }
    prose
}

/// Where the links and pictures of a page lead.
fn targets(page: &str) -> Vec<String> {
    let prose = without_code(page);
    let links = prose.split("](").skip(1);
    let targets = links.filter_map(|rest| Some(rest.split_once(')')?.0.trim().to_owned()));
    targets.collect()
}

/// The anchors that a page has: those that GitHub makes of headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let mut anchors = BTreeSet::new();
    for line in page.lines() {
        is_code ^= line.trim_start().starts_with("```");
        let heading = line.trim_start_matches('#');
        if !is_code && heading.len() < line.len() && heading.starts_with(' ') {
            anchors.insert(anchor(heading));
        }
    }
    anchors
}

fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// What is wrong with a link of the page at `from`.
fn complaint(pages: &BTreeMap<PathBuf, String>, from: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let directory = from.parent().expect("a file is in a directory");
    let file = match path {
        "" => from.to_owned(),
        path => match directory.join(path).canonicalize() {
            Ok(file) => file,
            Err(_) => return Some(format!("{from:?}: nothing is at {target}")),
        },
    };
    let found = pages.get(&file).map(|page| anchors(page));
    let has_anchor = anchor.is_empty() || found.is_some_and(|found| found.contains(anchor));
    (!has_anchor).then(|| format!("{from:?}: no heading is at {target}"))
}

#[test]
fn every_link_leads_somewhere() {
    let pages = markdown(&root().canonicalize().expect("it exists"));
    assert!(pages.len() > 20, "{pages:?}");
    let mut complaints = Vec::new();
    let mut links = 0;
    for (path, page) in &pages {
        for target in targets(page) {
            links += 1;
            complaints.extend(complaint(&pages, path, &target));
        }
    }
    assert!(links > 100, "only {links} links are found");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let path = root().join("README.md").canonicalize().expect("it exists");
    let page = "# A `b` (c)\n[x](LICENSE) [x](nothing.md) [x](#a-b-c) [x](#d)\n`[x](code.md)`\n";
    let pages = BTreeMap::from([(path.clone(), page.to_owned())]);
    let complaints: Vec<String> = targets(page)
        .iter()
        .filter_map(|target| complaint(&pages, &path, target))
        .collect();
    assert_eq!(complaints.len(), 2, "{complaints:?}");
    assert!(complaints[0].contains("nothing.md"));
    assert!(complaints[1].contains("#d"));
}

#[test]
fn the_demo_says_first_how_long_it_takes() {
    let text = recipe("demo");
    let first = text.lines().next().expect("it does something");
    assert!(
        first.starts_with("echo ") && first.contains("three minutes"),
        "{text}"
    );
}

#[test]
fn the_recording_of_the_demo_has_every_chapter_of_it() {
    let recording = fs::read_to_string(root().join("docs/demo.md")).expect("docs/record makes it");
    let mut chapters = 0;
    for (path, source) in files(&root().join("tests/demo"), "rs") {
        for rest in source.split("heading(\"").skip(1) {
            let title = rest.split('"').next().expect("the title ends");
            assert!(
                recording.contains(&format!("\n== {title}\n")),
                "{title:?} of {path:?} is not in docs/demo.md: run docs/record"
            );
            chapters += 1;
        }
    }
    assert!(chapters > 5, "{chapters}");
    assert!(recording.contains("\nEverything is as the networks say.\n"));
}
