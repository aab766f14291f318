"""Writers: convert messages to values that msgspec encodes.

They add the tags, and replace named tuples, which msgspec would encode as arrays. The encoder calls
`plain` for containers and names.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec

from northstar.api.shape import Body, Exit, Record, Row, Signal, Variant, tag_of
from northstar.model import Container, Exited, ExitStatus, Name, Version

Writer = Callable[[Any], Any]


def plain(value: object) -> object:
    """Return a value that msgspec does not support as one that it does."""
    if isinstance(value, Container):
        return str(value)
    if isinstance(value, Name):
        return str.__str__(value)
    if isinstance(value, types.MappingProxyType):
        return dict(value)
    raise NotImplementedError(f"a message cannot hold a {type(value).__name__}")


json_encoder: Final = msgspec.json.Encoder(enc_hook=plain)
"""Encodes the values that writers make."""


@functools.cache
def variant_writer(kind: type[Variant]) -> Writer:
    """Return the function that makes the tagged form of a variant."""
    tag = tag_of(kind)
    fields = _field_writers(kind)
    if not fields:
        return lambda _: tag
    if issubclass(kind, Row):
        return lambda value: {tag: [write(getattr(value, name)) for name, _, write in fields]}
    if not issubclass(kind, Record):
        [(name, _, write)] = fields
        return lambda value: {tag: write(getattr(value, name))}
    write_body = _body_writer(kind)
    return lambda value: {tag: write_body(value)}


@functools.cache
def _body_writer(kind: type[Body | Record]) -> Writer:
    """Return the function that makes the object of the fields; msgspec's own form if possible."""
    fields = _field_writers(kind)
    if all(write is _as_it_is for _, _, write in fields):
        return _as_it_is
    if kind.__struct_config__.omit_defaults:
        # msgspec omits any default. Here it is always None: a False that is given is written.
        return lambda value: {
            wire: write(item)
            for name, wire, write in fields
            if (item := getattr(value, name)) is not None
        }
    return lambda value: {wire: write(getattr(value, name)) for name, wire, write in fields}


def _field_writers(kind: type[Body | Variant]) -> list[tuple[str, str, Writer]]:
    hints = get_type_hints(kind, include_extras=True)
    names = zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)
    return [(name, wire, _writer(hints[name])) for name, wire in names]


def _writer(kind: Any) -> Writer:
    if kind == ExitStatus:
        return _write_exit_status
    if kind == ExitStatus | None:
        return lambda status: None if status is None else _write_exit_status(status)
    if kind == Version:
        return str
    arguments = get_args(kind)
    if get_origin(kind) is tuple:
        item = _writer(arguments[0])
        return item if item is _as_it_is else lambda value: [item(one) for one in value]
    kinds = arguments or (kind,)
    if all(isinstance(one, type) and issubclass(one, Variant) for one in kinds):
        return _write_variant
    if isinstance(kind, type) and issubclass(kind, Body):
        return _body_writer(kind)
    return _as_it_is


def _write_variant(value: Variant) -> object:
    return variant_writer(type(value))(value)


def _as_it_is(value: object) -> object:
    return value


def _write_exit_status(status: ExitStatus) -> object:
    variant = Exit(status.code) if isinstance(status, Exited) else Signal(status.signal)
    return variant_writer(type(variant))(variant)
