#!/usr/bin/env python3
"""Makes the site of the documents, and checks its links: book.py MDBOOK OUTPUT.

The pages are those of SUMMARY.md, all over the repository. They are gathered in a temporary
directory together with the files that they link to, because mdBook takes everything that is in
the directory of its pages into the site.
"""

import html
import html.parser
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUMMARY = ROOT / "docs" / "SUMMARY.md"
TABLE, ROW = (re.compile(rf"<{tag}>.*?</{tag}>", re.S) for tag in ("table", "tr"))
CELL, TAG = re.compile(r"<td([^>]*)>"), re.compile(r"<[^>]*>")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def linked(page):
    """The files of the repository to which a page leads."""
    for target in LINK.findall(page.read_text()):
        path = (page.parent / target).resolve()
        if "://" not in target and path.is_file() and path.is_relative_to(ROOT):
            yield path


def gather(directory):
    """Copies the pages and what they link to; pages that are not in SUMMARY.md are left out."""
    pages = list(linked(SUMMARY))
    files = {path for page in pages for path in linked(page) if path.suffix != ".md"}
    for path in {*pages, *files}:
        copy = directory / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    # Seen from the root of the site.
    summary = LINK.sub(from_root, SUMMARY.read_text())
    (directory / "SUMMARY.md").write_text(summary)
    return pages


def from_root(link):
    path = (SUMMARY.parent / link[1]).resolve().relative_to(ROOT)
    return f"]({path})"


def name_cells(page):
    """Gives each cell of a table the title of its column, which a narrow window shows beside it."""

    def of_table(table):
        titles = [TAG.sub("", title) for title in re.findall(r"<th[^>]*>(.*?)</th>", table[0], re.S)]
        return ROW.sub(lambda row: of_row(row[0], titles), table[0])

    def of_row(row, titles):
        names = iter(titles)
        return CELL.sub(lambda cell: f'<td{cell[1]} data-title="{html.escape(next(names, ""))}">', row)

    page.write_text(TABLE.sub(of_table, page.read_text()))


class Page(html.parser.HTMLParser):
    """The links of a page of the site, and the places on it that links can name."""

    def __init__(self, path):
        super().__init__()
        self.links, self.places = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.places.update(filter(None, [attributes.get("id"), attributes.get("name")]))
        self.links += filter(None, [attributes.get("href"), attributes.get("src")])


def broken_links(site):
    pages = {path: Page(path) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            url = urllib.parse.urlparse(link)
            # The page for what is not found is served at any path.
            if url.scheme or url.netloc or path.name == "404.html":
                continue
            target = path if not url.path else (path.parent / urllib.parse.unquote(url.path)).resolve()
            if not target.is_file():
                yield f"{path.relative_to(site)}: nothing is at {link}"
            elif url.fragment and target in pages and url.fragment not in pages[target].places:
                yield f"{path.relative_to(site)}: no heading is at {link}"


def main(mdbook, output):
    output = pathlib.Path(output).resolve()
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        for path in ROOT / "book.toml", ROOT / "docs" / "book.css":
            shutil.copy(path, work)
        (work / "src").mkdir()
        pages = gather(work / "src")
        subprocess.run([mdbook, "build", "--dest-dir", output, work], check=True)
    for page in output.rglob("*.html"):
        name_cells(page)
    broken = sorted(set(broken_links(output)))
    print("\n".join(broken) or f"{len(pages)} pages: {output}/README.html")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
