"""The settings of Sphinx for the site, see build.py."""

project = "Northstar for Python"
project_copyright = ""
extensions = ["myst_parser", "sphinx_copybutton"]
root_doc = "index"

# The documents are in the Markdown of Git hosts: only what build.py writes is MyST.
myst_heading_anchors = 6
myst_disable_syntax = ["myst_block_break", "myst_line_comment", "myst_role", "myst_target"]

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_last_updated_fmt = None
# Prompts are shown, not copied, and neither is the output.
copybutton_prompt_text = r"[$#] "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
highlight_language = "none"
