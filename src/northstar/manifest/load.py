"""Reads and writes manifests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from northstar.manifest.lint import lint
from northstar.manifest.manifest import MANIFEST, Manifest
from northstar.model import ManifestError
from northstar.model.text import VALUE_MAX
from northstar.schema import documents, yaml
from northstar.schema.context import Context, Hint, Path, Place
from northstar.schema.emit import emit
from northstar.schema.node import INPUT_MAX, Node

_ZIP: Final = b"PK\x03\x04"
"""The first bytes of a package: the header of a ZIP archive's first entry."""

_ELF: Final = b"\x7fELF"
"""The first bytes of a program, elf(5)."""


class ManifestContext(Context[ManifestError]):
    """State of reading a manifest. Errors name the field, the line and the column."""

    def __init__(self, *, collect: bool = False, strict: bool = False) -> None:
        """Begin to read.

        Args:
            collect: continue after an error, to find all errors.
            strict: unknown keys below `cgroups` are errors: a limit with a misspelt name does not
                limit anything. Northstar 0.9.2 and the runtime ignore them.
        """
        super().__init__(collect=collect)
        self._strict = strict

    def refuses_ignored(self, path: Path) -> bool:
        """Return whether an unknown key at `path`, which a record ignores, is an error."""
        return self._strict and path[0] == "cgroups"

    def error(
        self, rule: str, path: Path = (), place: Place = None, hint: Hint = None
    ) -> ManifestError:
        """Make an error."""
        field = ".".join(map(str, path))
        if not field.isprintable() or len(field) > 4 * VALUE_MAX:
            # A key is untrusted text: it must not control a terminal or fill a log.
            field = field[: 4 * VALUE_MAX].encode("unicode_escape").decode()
        line, column = place or (None, None)
        return ManifestError(rule, path=field, line=line, column=column, hint=hint)


class Report(NamedTuple):
    """The result of checking a text.

    Attributes:
        manifest: the manifest; None if there are errors.
        errors: all errors that one pass finds.
        warnings: ignored fields, and settings that are probably mistakes.
    """

    manifest: Manifest | None
    errors: tuple[ManifestError, ...]
    warnings: tuple[str, ...]


def loads(text: str | bytes) -> Manifest:
    """Read a manifest in YAML, JSON or TOML. Bytes are UTF-8.

    Raises:
        ManifestError: the text is not a manifest; the first error.
    """
    return loads_with_warnings(text)[0]


def loads_with_warnings(text: str | bytes) -> tuple[Manifest, tuple[str, ...]]:
    """Read a manifest. Return it with warnings about ignored (unknown) fields, for a log.

    Raises:
        ManifestError: the text is not a manifest; the first error.
    """
    manifest, context = _read(text, collect=False)
    if manifest is None:
        raise context.errors[0]
    return manifest, tuple(context.warnings)


def check(
    text: str | bytes, *, is_syscall: Callable[[str], bool] | None = None, strict: bool = False
) -> Report:
    """Find all errors of a manifest, and settings that are probably mistakes.

    Args:
        text: the manifest in YAML, JSON or TOML.
        is_syscall: returns whether a system call has this name; None skips the check of names.
        strict: unknown keys below `cgroups` are errors, not warnings.
    """
    manifest, context = _read(text, collect=True, strict=strict)
    warnings = list(context.warnings)
    if manifest is not None:
        warnings.extend(lint(manifest, is_syscall=is_syscall))
    return Report(manifest, tuple(context.errors), tuple(warnings))


def from_builtins(value: object) -> Manifest:
    """Read the serialised form, which `to_builtins` returns and an inspect answer contains.

    Raises:
        ManifestError: it is not a manifest.
    """
    context = ManifestContext()
    return context.value(MANIFEST, lambda: documents.node_of(value, context))


def to_builtins(manifest: Manifest) -> dict[str, Any]:
    """Return the serialised form. The caller must not change its parts."""
    return manifest.to_builtins()


def dumps(manifest: Manifest) -> str:
    """Return the manifest in YAML, variants as tags."""
    return emit(MANIFEST.dump(manifest, tagged=True))


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the serialised form of manifests."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:northstar:schema:manifest",
        "title": "Northstar manifest",
        **MANIFEST.schema(),
    }


def _read(
    text: str | bytes, *, collect: bool, strict: bool = False
) -> tuple[Manifest | None, ManifestContext]:
    """Return the manifest or None, and the context with the warnings or errors.

    The text is parsed as YAML, JSON and TOML until one of them accepts it. A text that looks like
    JSON is parsed as JSON first: YAML reads JSON too, but folds some line separators in strings
    (U+0085, U+2028, U+2029), which JSON keeps.
    """
    context = ManifestContext(collect=collect)
    try:
        data, decoded = _decode(text)
    except ManifestError as error:
        context.errors.append(error)
        return None, context
    json_first = documents.looks_like_json(decoded)
    parsers: dict[str, Callable[[ManifestContext], Node]] = {
        "yaml": lambda context: yaml.parse(data, context),
        "json": lambda context: documents.parse_json(decoded, context),
        "toml": lambda context: documents.parse_toml(decoded, context),
    }
    errors: dict[str, ManifestContext] = {}
    for language in ("json", "yaml", "toml") if json_first else ("yaml", "json", "toml"):
        context = ManifestContext(collect=collect, strict=strict)
        manifest = context.read(MANIFEST, partial(parsers[language], context))
        if manifest is not None:
            return manifest, context
        errors[language] = context
    if json_first:
        _locate(errors["json"].errors, errors["yaml"].errors)
        return None, errors["json"]
    return None, errors["toml" if documents.looks_like_toml(decoded) else "yaml"]


def _locate(errors: list[ManifestError], located: list[ManifestError]) -> None:
    """Add lines to errors of JSON, whose parser has none, from the same errors found as YAML."""
    places = {(error.path, error.rule): error for error in located}
    for index, error in enumerate(errors):
        place = places.get((error.path, error.rule))
        if error.line is None and place is not None:
            errors[index] = place


def _decode(text: str | bytes) -> tuple[bytes, str]:
    if not isinstance(text, str):
        _refuse_other_kind(text)
    if len(text) > INPUT_MAX:
        # Refused before the text is copied or parsed.
        raise _too_large(len(text))
    try:
        data = text.encode() if isinstance(text, str) else bytes(text)
        data = data.removeprefix(b"\xef\xbb\xbf")
        decoded = data.decode()
    except UnicodeEncodeError:
        raise ManifestError("not Unicode: half of a surrogate pair") from None
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"not UTF-8 at byte {error.start}", hint="save it as UTF-8, not as UTF-16 or Latin-1"
        ) from None
    if len(data) > INPUT_MAX:
        raise _too_large(len(data))
    return data, decoded


def _refuse_other_kind(data: bytes) -> None:
    """Refuse a file that is something else than a text: it was probably given by mistake.

    Raises:
        ManifestError: it is a package, or a program.
    """
    if data.startswith(_ZIP):
        raise ManifestError("it is a package", hint="use sextant inspect")
    if data.startswith(_ELF):
        raise ManifestError("it is a program", hint="name the manifest, a text")


def _too_large(size: int) -> ManifestError:
    return ManifestError(
        f"a manifest of {size} bytes is too large (at most {INPUT_MAX})",
        hint="put data into a file of the package",
    )
