"""Docstrings of attributes, which exist in the source only: they are read through its tree."""

from __future__ import annotations

import ast
import inspect
import itertools
from types import ModuleType


def attribute_texts(owner: ModuleType | type) -> dict[str, str]:
    """Return the docstring of each attribute of a module or a class that has one, by its name."""
    return texts_of(ast.parse(inspect.cleandoc("\n" + inspect.getsource(owner))))


def texts_of(tree: ast.Module) -> dict[str, str]:
    """Return the docstring of each attribute of a module, or of the only class in it."""
    body = tree.body
    if len(body) == 1 and isinstance(body[0], ast.ClassDef):
        body = body[0].body
    found = {}
    for statement, after in itertools.pairwise(body):
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                if (text := docstring(after)) is not None:
                    found[name] = text
    return found


def docstring(statement: ast.stmt) -> str | None:
    """Return the text of a statement that is a docstring, in one line."""
    match statement:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return " ".join(text.split())
    return None
