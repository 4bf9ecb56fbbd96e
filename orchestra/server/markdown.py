"""Markdown of users as HTML that can do no harm: no raw HTML, and of what is left only what is listed here."""

from __future__ import annotations

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup

_TAGS = set(
    "a abbr b blockquote br code del em h1 h2 h3 h4 h5 h6 hr i img li ol p pre s strong table tbody td th thead tr "
    "ul".split()
)
_ATTRIBUTES = {"a": {"href", "title"}, "img": {"src", "alt", "title"}, "td": {"align"}, "th": {"align"}}
#: Longest text that is rendered, in characters; a longer one is cut. The worst of it takes most of a second.
LONGEST = 50_000

_parser = MarkdownIt("commonmark", {"html": False}).enable("table").enable("strikethrough")


def as_html(text: str) -> Markup:
    """Markdown as harmless HTML."""
    clean = nh3.clean(
        _parser.render(text[:LONGEST]),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=_kept,
        url_schemes={"http", "https", "mailto"},
    )
    return Markup(clean)


def _kept(tag: str, attribute: str, value: str) -> str | None:
    """Pictures come by https only, as the policy of contents has it."""
    return None if (tag, attribute) == ("img", "src") and not value.startswith("https://") else value
