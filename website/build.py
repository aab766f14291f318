"""Build the static site from the documents: python website/build.py [DIRECTORY].

The documents are written for a Git host: README.md is the first page, and links lead to files
anywhere in the repository. This makes of them the sources of the site, and has Sphinx build it:

- README.md is the page index, the other documents outside of docs/ are pages below project/;
- a source file or a directory that a document links to is a page below files/, with its text;
- the title of a fenced block (```yaml title="manifest.yaml") is its caption;
- the navigation is that of docs/contents.md, where a link to DIRECTORY/README.md stands for this
  page and, below it, those of its directory that it links to.

Warnings are errors: links and anchors that lead nowhere, documents that are not in the contents,
code that its highlighter does not understand. So are resources from elsewhere: the site must work
without a network.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTENTS = "docs/contents.md"
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "examples/README.md": "project/examples.md",
}
"""The documents outside of docs/, and their pages."""

SPHINX = [sys.executable, "-m", "sphinx", "-b", "html", "-c", str(Path(__file__).parent)]
SPHINX += ["-q", "-E", "-W", "--keep-going"]
"""The command that makes a site, to be followed by the directories of the sources and the site."""

_LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")
_TITLE = re.compile(r' title="([^"]*)"')
_URL = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]*)")
_LANGUAGES = {".py": "python", ".c": "c", ".h": "c", ".yaml": "yaml", ".toml": "toml"}


def main() -> int:
    """Build the site; print what is wrong, and return the exit code."""
    site = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build/site"
    with tempfile.TemporaryDirectory(prefix="northstar-site-") as directory:
        sources = Path(directory) / "sources"
        write_sources(sources)
        shutil.rmtree(site, ignore_errors=True)
        doctrees = ["-d", f"{directory}/doctrees"]
        done = subprocess.run([*SPHINX, *doctrees, str(sources), str(site)], check=False)
    if done.returncode:
        return done.returncode
    found = external(site)
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    return 1 if found else 0


def write_sources(directory: Path) -> None:
    """Write the sources of all pages of the site into a directory."""
    documents = [*OUTSIDE, *(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]
    linked: set[str] = set()
    for source in documents:
        text = convert(source, linked.add)
        below = contents().get(source, ())
        if below:
            text += toctree(source, below)
        write(directory / page_of(source), text)
    for path in linked:
        if page_of(path).startswith("files/") and (ROOT / path).exists():
            write(directory / page_of(path), f"---\norphan: true\n---\n{listing(path)}")
    for image in ROOT.glob("docs/**/*.svg"):
        write(directory / image.relative_to(ROOT / "docs"), image.read_text())


def write(path: Path, text: str) -> None:
    """Write a file, and make its directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def page_of(source: str) -> str:
    """Return the page of a document, an image, a source file or a directory of the repository."""
    if source in OUTSIDE:
        return OUTSIDE[source]
    if source.startswith("docs/") and source.endswith((".md", ".svg")):
        return source.removeprefix("docs/")
    return f"files/{source}.md"


def convert(source: str, linked: Callable[[str], None]) -> str:
    """Return a document as a source of the site; report each file that it links to."""
    page = page_of(source)

    def link(match: re.Match[str]) -> str:
        path = os.path.normpath(os.path.join(os.path.dirname(source), match[1]))
        linked(path)
        # A path that leads nowhere stays as it is: Sphinx reports it.
        target = page_of(path) if (ROOT / path).exists() else match[1]
        return f"]({os.path.relpath(target, os.path.dirname(page) or '.')}{match[2] or ''})"

    text = (ROOT / source).read_text()
    parts = (fence(line) if code else _LINK.sub(link, line) for code, line in lines(text))
    return "\n".join(parts)


def lines(text: str) -> Iterator[tuple[bool, str]]:
    """Return the lines of a document, and whether they belong to a fenced block."""
    end = ""
    for line in text.split("\n"):
        match = _FENCE.match(line)
        if end:
            yield True, line
            if match is not None and match[2].startswith(end) and not match[3].strip():
                end = ""
        else:
            end = match[2] if match is not None else ""
            yield match is not None, line


def fence(line: str) -> str:
    """Return a line of a fenced block; of the first line the title becomes a caption."""
    match = _FENCE.match(line)
    title = _TITLE.search(match[3]) if match is not None else None
    if match is None or title is None:
        return line
    start, marks, language = match[1], match[2], match[3].split()[0]
    return f"{start}{marks}{{code-block}} {language}\n{start}:caption: {title[1]}\n"


def contents() -> dict[str, list[tuple[str, list[str]]]]:
    """Return for each document that has others below it: headings, each with those below it."""
    parts: list[tuple[str, list[str]]] = []
    found = {"README.md": parts}
    for line in (ROOT / CONTENTS).read_text().splitlines():
        if line.startswith("## "):
            parts.append((line[3:].strip(), []))
        elif match := re.match(r"- \[[^]]+\]\(([^)#]+)\)", line):
            source = os.path.normpath(os.path.join("docs", match[1]))
            parts[-1][1].append(source)
            directory, name = os.path.split(source)
            if name == "README.md" and source not in OUTSIDE:
                links = [target for target, _ in _LINK.findall((ROOT / source).read_text())]
                paths = dict.fromkeys(os.path.normpath(f"{directory}/{link}") for link in links)
                below = [path for path in paths if os.path.dirname(path) == directory]
                found[source] = [("", below)]
    parts[0][1].insert(0, CONTENTS)
    return found


def toctree(source: str, parts: list[tuple[str, list[str]]]) -> str:
    """Return the directives for the navigation below a document."""
    start = os.path.dirname(page_of(source)) or "."
    text = ""
    for heading, below in parts:
        pages = "\n".join(os.path.relpath(page_of(path), start) for path in below)
        caption = f":caption: {heading}\n" if heading else ""
        text += f"\n```{{toctree}}\n:hidden:\n:titlesonly:\n{caption}\n{pages}\n```\n"
    return text


def listing(source: str) -> str:
    """Return a page with the text of a file, or of all files of a directory."""
    if (ROOT / source).is_file():
        return f"# {source}\n\n{block(ROOT / source)}"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--", source],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    names = sorted(filter(None, tracked.stdout.split("\0")))
    return "\n".join([f"# {source}\n", *(f"## {n}\n\n{block(ROOT / n)}" for n in names)])


def block(path: Path) -> str:
    """Return the text of a file as a fenced block."""
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        return "A binary file.\n"
    marks = "`" * max((len(run) + 1 for run in re.findall(r"`{3,}", text)), default=3)
    language = _LANGUAGES.get(path.suffix) or ("sh" if text.startswith("#!/bin/sh") else "text")
    return f"{marks}{language}\n{text}{marks}\n"


class _Resources(HTMLParser):
    """Collects what a browser would load for a page from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser. Links (a) are loaded only by a click."""
        names = ("src", "srcset", "data", "poster") if tag == "a" else ("src", "href", "data")
        for name, value in attrs:
            if name in names and re.match(r"(?:https?:)?//", value or ""):
                self.found.append(f"<{tag} {name}={value}>")


def external(site: Path) -> list[str]:
    """Return the resources from elsewhere that the pages and style sheets of a site load."""
    found = []
    for page in sorted(site.rglob("*.html")):
        parser = _Resources()
        parser.feed(page.read_text())
        found += [f"{page.relative_to(site)} loads {resource}" for resource in parser.found]
    for sheet in sorted(site.rglob("*.css")):
        for url in re.findall(
            r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]*)", sheet.read_text()
        ):
            found.append(f"{sheet.relative_to(site)} loads {url}")
    return found


if __name__ == "__main__":
    sys.exit(main())
