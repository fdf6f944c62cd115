"""The site made of these pages: `make docs`.  Needs no network, and a warning fails it."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from diagrams import as_dot
from pygments.lexers.special import TextLexer
from reference import GENERATED

import colosim

project = "colosim"
author = copyright = "The colosim authors"  # noqa: A001
version = release = colosim.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.graphviz",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["README.md"]  # the list of pages as GitHub shows it; here it is `index`
suppress_warnings = ["toc.empty_glob"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 6  # as on GitHub, which links between pages rely on

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures have them, as text
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
default_role = "code"
smartquotes = False  # what is shown is what is typed
nitpicky = True
nitpick_ignore_regex = [  # no network, so no other project's index; and what is not in `api.md`
    ("py:.*", r"(pd|pandas|np|numpy|collections|pathlib|types|typing|matplotlib)\b.*"),
    ("py:class", r"(Path|Mapping|Sequence|Callable|Any|Literal|Iterator|Chart|Progress|Watch).*"),
]

graphviz_output_format = "svg"

html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme = "furo"
html_title = f"colosim {release}"
html_copy_source = False
html_show_sourcelink = False
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
pygments_style = "friendly"


def _fill(_app: Any, docname: str, source: list[str]) -> None:
    """Put what is generated in the place of its mark; what is no page is named, not linked."""
    here = (DOCS / docname).parent
    source[0] = re.sub(
        r"(?<!!)\[([^]]+)\]\((\.\.?/[^)#\s]+)[^)\s]*\)",
        lambda link: (
            link[0] if _is_page(here / link[2]) else f"{link[1]} (`{_name(here / link[2])}`)"
        ),
        source[0],
    )
    source[0] = re.sub(
        r"^<!-- generated: (\w+) -->$",
        lambda mark: GENERATED[mark[1]](),
        source[0],
        flags=re.MULTILINE,
    )


def _draw(_app: Any, _docname: str, source: list[str]) -> None:
    """State diagrams as pictures; GitHub draws them itself.  Without Graphviz their text stays."""
    if shutil.which("dot"):
        source[0] = re.sub(
            r"^```mermaid\n(.*?)^```$",
            lambda found: f"```{{graphviz}}\n:alt: {_ALT}\n\n{as_dot(found[1])}\n```",
            source[0],
            flags=re.MULTILINE | re.DOTALL,
        )


_ALT = "state diagram; the table after it says the same"


def _is_page(path: Path) -> bool:
    return path.resolve().is_relative_to(DOCS)


def _name(path: Path) -> str:
    return str(path.resolve().relative_to(ROOT))


def _list_others(_app: Any, docname: str, source: list[str]) -> None:
    """On the first page: every page beside it that it does not name itself."""
    if docname == "diagrams/README":  # which is generated too
        source[0] += "\n\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"
    if docname == "index":
        pages = {path.stem for path in DOCS.glob("*.md")} - {"README", "index"}
        named = set(re.findall(r"^([\w/-]+)$", source[0], flags=re.MULTILINE))
        source[0] = source[0].replace("(others)", "\n".join(sorted(pages - named)))


def _escape(_app: Any, _context: Any, lines: list[str]) -> None:
    """A pattern in an option's help is no emphasis."""
    lines[:] = [re.sub(r"(?<!\*)\*(?!\*)", r"\\*", line) for line in lines]


def _split(*given: Any) -> None:
    """In docstrings each ``name: what it is`` is a paragraph of its own."""
    lines = given[-1]
    split = []
    for line in lines:
        if names := re.match(r"([a-z_]+(?:, [a-z_]+)*): (?=\S)", line):
            split += ["", f"**{names[1]}**: {line[names.end() :]}"]
        else:
            split.append(line)
    lines[:] = split


def setup(app: Any) -> None:
    """Sphinx asks this file to hook itself in."""
    app.connect("source-read", _fill)
    app.connect("source-read", _list_others)
    app.connect("source-read", _draw)
    app.add_lexer("mermaid", TextLexer)  # where it is shown as text
    app.connect("sphinx-click-process-options", _escape)
    app.connect("autodoc-process-docstring", _split)
