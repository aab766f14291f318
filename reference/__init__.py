"""The generator of the pages in docs/reference and docs/man. It is not installed.

`make reference` writes all of them. Each page is made from declarations and docstrings of the code,
so that no text stands twice. The texts are plain, with code in backquotes and references to manual
pages as `name(5)`; `markdown` and `mdoc` write them in both languages.

A module of pages has the function `pages`, and is listed in `reference.__main__`.
"""
