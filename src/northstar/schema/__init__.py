"""Typed decoding of documents, for manifests, the configuration and key lists.

A document is parsed into nodes (`documents`, `yaml`), which keep lines and the source text. Kinds
(`scalars`, `values`, `records`, `variants`) turn nodes into values: each kind reads, writes, and
returns its JSON Schema. A `Context` collects errors and warnings. Reference pages are generated
from the same kinds: `Record.fields` has description, unit and default of each field, `Kind.parts`
the kinds inside a kind.
"""
