"""Typed decoding of documents: what a manifest and the configuration have in common.

A document is read into nodes (`documents`, `yaml`), which keep lines and the text as written. The
kinds (`scalars`, `values`, `records`, `variants`) make values of them: each reads, writes, and
describes itself for the JSON Schema. A `Context` collects errors and warnings in the words of the
document. Pages of reference are made of the same: `Record.members` has description, unit and
default of each field, `Kind.parts` leads to what is inside.
"""
