"""The documentation as one site: pages of docs/, and those of the library from its docstrings (make docs)."""

from importlib.metadata import version as of

project = "MoE Sweep"
author = "The MoE Sweep maintainers"
version = release = of("moesweep")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
root_doc = "index"

myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
# No lexer knows Mermaid: the drawing of the rooms is shown as it is written.
suppress_warnings = ["myst.header", "misc.highlighting_failure"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "MoE Sweep"
html_copy_source = False
html_show_sphinx = False
