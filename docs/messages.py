#!/usr/bin/env python3
"""Prints messages.md: the texts that the programs show, in the order of the sources.

A text is a string of the sources that has words; "…" stands for what a program puts there.
"""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What each folder of sources is a part of, as users know it.
PROGRAMS = {
    "common": "Every plugin",
    "ipvlan": "ipvlan",
    "host-device": "host-device",
    "host-local-ipam": "host-local",
    "eni-sync": "eni-sync",
    "deploy/bundle": "eni-cni",
}
# Pages for browsers, help of metrics (deploy/metrics.md has it) and patterns of secrets.
NO_MESSAGES = re.compile(r"/(agent/metrics/|cli/status/(html|page)|cli/support_bundle/redact)")
# Values of HTTP headers.
NO_TEXT = re.compile(r"^[\w-]+/[\w-]+;|^default-src ")
UNIT_TESTS = "#[cfg(test)]\nmod tests {"
PART = re.compile(
    r"""
    //[^\n]*                                    # a comment
    | \#!?\[ (?:"(?:[^"\\]|\\.)*" | [^]"])* \]  # an attribute
    | '(?:[^'\\\n]|\\[^\n]+?)'                  # a character
    | b?r(?P<hashes>\#*)"(?P<raw>.*?)"(?P=hashes)
    | b?"(?P<escaped>(?:[^"\\]|\\.)*)"
    """,
    re.VERBOSE | re.DOTALL,
)


def texts(source):
    """The strings of a file that have words, once each, in order."""
    found = {}
    for part in PART.finditer(source.partition(UNIT_TESTS)[0]):
        text = shown(part["raw"] or part["escaped"] or "")
        words = re.findall(r"[A-Za-z]{2,}", text)
        if " " in text and len(words) > 1 and not NO_TEXT.match(text):
            found[text] = None
    return list(found)


def shown(literal):
    """A string as it is read: joined lines, and "…" for each placeholder."""
    text = re.sub(r"\\\n\s*", "", literal)
    text = text.replace("{{", "\0").replace("}}", "\1")
    text = re.sub(r"\{[^{}]*\}", "…", text).replace("\0", "{").replace("\1", "}")
    return re.sub(r"\\n|\s+", " ", text.replace('\\"', '"')).strip()


def subject(source):
    """The first sentence of what a file says that it is about."""
    lines = re.match(r"(?://!.*\n)+", source)[0].splitlines()
    paragraph = " ".join(line[3:].strip() for line in lines).strip()
    return re.split(r"(?<=\.)\s", paragraph)[0]


def quoted(text):
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def page():
    yield "# Messages"
    yield (
        "Every text that the programs show, in errors, logs and reports, where it is made; `…` "
        "stands for a name, a value or another text. Search this page for the part of a text that "
        "is the same for everybody. What the codes of errors mean is in "
        "[troubleshooting.md](troubleshooting.md#by-error-text), with what to do about the most "
        "frequent texts. `docs/messages.py` has made this page of the sources."
    )
    for folder, program in PROGRAMS.items():
        yield f"## {program}"
        for path in sorted((ROOT / folder / "src").rglob("*.rs")):
            name = path.relative_to(ROOT).as_posix()
            source = path.read_text()
            found = [] if NO_MESSAGES.search(name) else texts(source)
            if found:
                yield f"### {name}\n\n{subject(source)}"
                yield "\n".join(f"- {quoted(text)}" for text in found)


print("\n\n".join(page()))
