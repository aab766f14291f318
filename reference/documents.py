"""The documents: docs/reference/manifest.md and configuration.md, and the manual pages (5).

All of them are made of the declarations of fields in northstar.manifest and
northstar.runtime.config.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from northstar import manifest
from northstar.manifest.manifest import MANIFEST
from northstar.runtime import config
from reference import markdown, mdoc, toml, yaml
from reference.fields import BASE, Entry, Language, Section, describe

YAML: Final = Language(
    "yaml",
    {
        "name": "hello",
        "version": "1.0.0",
        "init": "/hello",
        "uid": 1000,
        "gid": 1000,
        "console": {"permissions": []},
    },
    yaml.emit,
    manifest.loads,
)
"""The language of manifests. The base has a console, which some fields require."""

TOML: Final = Language(
    "toml",
    {
        "run_dir": "/run/northstar",
        "data_dir": "/var/lib/northstar/data",
        "socket_dir": "/run/northstar-sockets",
        "cgroup": "northstar",
    },
    toml.emit,
    config.loads,
)
"""The language of configurations."""

_MANIFEST_SOURCE: Final = "src/northstar/manifest"
_CONFIG_SOURCE: Final = "src/northstar/runtime/config.py"

_MANIFEST_TEXT: Final = """\
The manifest is the file `manifest.yaml` of a package: the identity of a container, and its rights
and resources. It is written in YAML; `sextant pack` and `sextant check` also read JSON and TOML. It
has at most 1 MiB.

`sextant check FILE` names all errors of a manifest, and settings that are probably mistakes.
Unknown fields are errors, except in `cgroups`, `sched`, `rlimits` and the mounts that have no
fields, where they are warnings. `sextant schema` prints the JSON Schema, for editors.

Where a field is text, YAML's plain scalars are taken as they are written: `1.50` is the text
`1.50`. Integers are decimal, or `0x..`, `0o..` and `0b..`; `0660` is refused, write `0o660`. A
field that has several forms is written as a map of one key, `fifo: {priority: 20}`, or as a tag,
`!fifo {priority: 20}`.

A manifest without `init` is that of a resource, whose files other containers mount. It must not
have the fields `args`, `env`, `capabilities`, `suppl_groups`, `autostart`, `cgroups`, `io`,
`seccomp` and `service`.
"""

_CONFIG_TEXT: Final = """\
The configuration of the runtime is a TOML file, which `northstar -c FILE` names; without the option
it is `northstar.toml` in the working directory. It is read once, at start. An error in it ends the
start, and names the line.

Unknown keys are errors, except in `console.global`, where they are warnings. `northstar schema`
prints the JSON Schema, for editors. Relative paths are relative to the working directory.

Durations are texts such as `100ms`, `5s`, `1m 30s` or `2days`. Sizes are texts: `512` is in bytes,
`100MB` and `1M` are powers of 1000, `1MiB` is a power of 1024.
"""

_SINCE_TEXT: Final = (
    f"Since: {BASE} is Northstar 0.9.2, with whose packages and configurations this project is "
    "compatible. Other versions are those of Northstar for Python, and Northstar 0.9.2 does not "
    "have the field."
)


def pages() -> dict[str, str]:
    """Return the pages by their paths."""
    manifests = describe(MANIFEST, YAML)
    configurations = describe(config.CONFIG, TOML)
    return {
        "docs/reference/manifest.md": markdown.page(
            "Manifest", _MANIFEST_SOURCE, _markdown(manifests, YAML, _MANIFEST_TEXT)
        ),
        "docs/reference/configuration.md": markdown.page(
            "Configuration", _CONFIG_SOURCE, _markdown(configurations, TOML, _CONFIG_TEXT)
        ),
        "docs/man/man5/northstar-manifest.5": mdoc.page(
            "northstar-manifest",
            5,
            "manifest of a Northstar package",
            _MANIFEST_SOURCE,
            [
                *_manual("Manifest fields", manifests, _MANIFEST_TEXT),
                mdoc.section(
                    "Files",
                    mdoc.items(
                        [("manifest.yaml", mdoc.text("The manifest in a package, a ZIP archive."))]
                    ),
                ),
                mdoc.see_also("sextant(1)", "northstar(1)", "northstar.toml(5)"),
            ],
        ),
        "docs/man/man5/northstar.toml.5": mdoc.page(
            "northstar.toml",
            5,
            "configuration of the Northstar container runtime",
            _CONFIG_SOURCE,
            [
                *_manual("Configuration keys", configurations, _CONFIG_TEXT),
                mdoc.section(
                    "Files",
                    mdoc.items(
                        [
                            (
                                "northstar.toml",
                                mdoc.text(
                                    "The configuration, in the working directory of the runtime."
                                ),
                            ),
                        ]
                    ),
                ),
                mdoc.see_also("northstar(1)", "nstar(1)", "northstar-manifest(5)"),
            ],
        ),
    }


def _markdown(sections: list[Section], language: Language, text: str) -> Iterator[str]:
    yield from map(markdown.paragraph, text.split("\n\n"))
    yield markdown.paragraph(_SINCE_TEXT)
    for section in sections:
        yield markdown.heading(2, section.title or "Top level")
        if section.title and section.text:
            yield markdown.paragraph(section.text)
        if section.entries:
            head = ("field", "meaning", "type", "default", "since")
            yield markdown.table(head, map(_row, section.entries))
        for example in section.examples:
            yield markdown.code(example.text, language.name)


def _row(entry: Entry) -> tuple[str, str, str, str, str]:
    name = markdown.inline_code(entry.name)
    if entry.section:
        name = f"[{name}](#{markdown.anchor(entry.section)})"
    texts = (entry.meaning, entry.type, entry.default)
    meaning, kind, default = map(markdown.text, texts)
    return name, meaning, kind, default, entry.since


def _manual(title: str, sections: list[Section], text: str) -> Iterator[str]:
    yield mdoc.section("Description", *map(mdoc.text, [*text.split("\n\n"), _SINCE_TEXT]))
    blocks: list[str] = []
    for section in sections:
        about = mdoc.text(section.text) if section.title and section.text else ""
        items = mdoc.items((entry.name, _item(entry)) for entry in section.entries)
        examples = [mdoc.example(example.text) for example in section.examples]
        if section.title:
            blocks.append(mdoc.subsection(section.title, about, items, *examples))
        else:
            blocks.append(mdoc.join([items, *examples]))
    yield mdoc.section(title, *blocks)


def _item(entry: Entry) -> str:
    facts = [f"Type: {entry.type}."]
    if entry.default == "required":
        facts.append("Required.")
    elif entry.default:
        facts.append(f"Default: {entry.default}.")
    if entry.section:
        facts.append(f"See {entry.section}.")
    if entry.since != BASE:
        facts.append(f"Since: {entry.since}.")
    return mdoc.text(f"{entry.meaning} {' '.join(facts)}")
