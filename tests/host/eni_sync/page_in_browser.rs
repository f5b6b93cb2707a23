//! The page of the agent in a browser: that it fits a narrow window, and can be read in the light
//! and in the dark.

use std::fs;
use std::path::Path;
use std::process::Command;

use fixtures::scrape::{ADDRESS, get_as};
use harness::vpc::{Vpc, VpcNode, eventually};
use harness::{Agent, Pod};
use serde_json::{Value, json};

/// Gives the ledger this many addresses, of pods with long names.
fn fill(node: &VpcNode, count: usize) {
    let text = fs::read_to_string(node.ledger_path().join("10.0.4.70")).unwrap();
    let entry: Value = serde_json::from_str(&text).unwrap();
    fs::remove_file(node.ledger_path().join("10.0.4.70")).unwrap();
    for number in 0..count {
        let address = format!("10.0.{}.{}", 8 + number / 250, 1 + number % 250);
        let mut entry = entry.clone();
        entry["address"] = json!(address);
        let names = [
            "telco-control-plane/session-management-function",
            "default/web",
        ];
        entry["owner"]["pod"] = json!(format!("{}-{number}", names[number % 2]));
        fs::write(node.ledger_path().join(&address), entry.to_string()).unwrap();
    }
}

/// How wide and how high a browser makes a page in a window of this width.
fn size(page: &str, width: u32) -> (u32, u32) {
    let seen = look(
        page,
        width,
        &[],
        "it.documentElement.scrollWidth + ' ' + it.documentElement.scrollHeight",
    );
    let (width, height) = seen.split_once(' ').unwrap();
    (width.parse().unwrap(), height.parse().unwrap())
}

/// What an expression makes of the document `it` of a page in a window of this width.
fn look(page: &str, width: u32, arguments: &[&str], expression: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    // A window of the browser is not as narrow as a telephone; a frame in it is.
    let escaped = page.replace('&', "&amp;").replace('"', "&quot;");
    let frame = format!(
        "<!doctype html><style>:root {{ color-scheme: light dark; }}</style><iframe id=f style=\"border:0;width:{width}px;height:100px\" \
         srcdoc=\"{escaped}\"></iframe><script>f.onload = () => {{ \
         const it = f.contentDocument; document.title = 'seen ' + {expression}; }};</script>"
    );
    let file = directory.path().join("frame.html");
    fs::write(&file, frame).unwrap();
    let url = format!("file://{}", file.display());
    let arguments = [arguments, &["--dump-dom", &url]].concat();
    let text = chromium(directory.path(), &arguments);
    let seen = text.split("<title>seen ").nth(1);
    let seen = seen.unwrap_or_else(|| panic!("{text}"));
    seen.split("</title>").next().unwrap().to_owned()
}

/// The luminance of the background, and the smallest contrast of any text with what is behind it,
/// as WCAG defines them.
const CONTRAST: &str = "(() => {
    const style = (e) => it.defaultView.getComputedStyle(e);
    const parts = (color) => color.match(/[0-9.]+/g).map(Number);
    const linear = (c) => c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const probe = it.body.appendChild(it.createElement('i'));
    probe.style.backgroundColor = 'Canvas';
    const canvas = luminance(parts(style(probe).backgroundColor));
    const behind = (e) => {
        if (!e) return canvas;
        const color = parts(style(e).backgroundColor);
        return color[3] === 0 ? behind(e.parentElement) : luminance(color);
    };
    let smallest = 21;
    for (const e of it.body.querySelectorAll('*')) {
        if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
        const pair = [luminance(parts(style(e).color)), behind(e)].sort((a, b) => b - a);
        smallest = Math.min(smallest, (pair[0] + 0.05) / (pair[1] + 0.05));
    }
    return canvas + ' ' + smallest;
})()";

#[test]
fn it_can_be_read_in_the_light_and_in_the_dark() {
    let (vpc, pod) = (Vpc::new(), Pod::new("c1"));
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({"metrics": "127.0.0.1:9809"}));
    node.add(&pod, &["10.0.4.70"]).ok();
    node.edit_ledger("10.0.4.70", |entry| entry["state"] = json!("adopted"));
    let page = get_as(&node, "/", ADDRESS).2;
    assert!(page.contains("<li class=\"warning\">"), "{page}");
    for (scheme, is_dark) in [("0", true), ("1", false)] {
        let scheme = format!("--blink-settings=preferredColorScheme={scheme}");
        let seen = look(&page, 1280, &[&scheme], CONTRAST);
        let (background, contrast) = seen.split_once(' ').unwrap();
        let background: f64 = background.parse().unwrap();
        assert_eq!(background < 0.1, is_dark, "{seen}");
        let contrast: f64 = contrast.parse().unwrap();
        assert!(contrast >= 4.5, "{seen}: dark: {is_dark}");
    }
}

fn chromium(profile: &Path, arguments: &[&str]) -> String {
    let mut browser = Command::new("chromium");
    browser.args(["--headless=new", "--no-sandbox", "--disable-gpu"]);
    browser.args(["--disable-dev-shm-usage", "--virtual-time-budget=10000"]);
    browser.arg(format!(
        "--user-data-dir={}",
        profile.join("profile").display()
    ));
    let output = browser.args(arguments).output();
    let output = output.expect("tests/prepare installs chromium");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_browser_shows_it_without_scrolling_sideways() {
    let (vpc, pod) = (Vpc::new().without_invariants(), Pod::new("c1"));
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({"metrics": "127.0.0.1:9809"}));
    node.add(&pod, &["10.0.4.70"]).ok();
    let entry = node.ledger_path().join("10.0.4.70");
    let kept = fs::read(&entry).unwrap();
    let mut heights = Vec::new();
    for count in [0, 5, 500] {
        fs::write(&entry, &kept).unwrap();
        fill(&node, count);
        let (_, _, page) = get_as(&node, "/", ADDRESS);
        // The agent may have compared them with EC2 by now: its changes are shown as well.
        let addresses = page.split("<h2>Last changes</h2>").next().unwrap();
        let shown = addresses
            .matches("<td data-title=\"ADDRESS\">10.0.8.")
            .count()
            + addresses
                .matches("<td data-title=\"ADDRESS\">10.0.9.")
                .count();
        assert_eq!(shown, count, "{page}");
        if let Some(directory) = std::env::var_os("PAGE_DIRECTORY") {
            let file = Path::new(&directory).join(format!("page-{count}.html"));
            fs::write(file, &page).unwrap();
        }
        for width in [1280, 390] {
            let (needed, height) = size(&page, width);
            assert!(
                needed <= width,
                "{count} addresses need {needed} of {width} pixels"
            );
            heights.push(height);
        }
    }
    // It is the content that is shown: more addresses need more room, and so does less width.
    assert!(
        heights[0] < heights[2] && heights[2] < heights[4],
        "{heights:?}"
    );
    assert!(heights[4] < heights[5], "{heights:?}");
    assert!(eventually(|| get_as(&node, "/healthz", ADDRESS).0 == 200));
}
