"""A task's guidelines, which somebody wrote in Markdown, as HTML that cannot do anything."""

from functools import lru_cache
from typing import Any


@lru_cache(maxsize=64)
def html_of(markdown: str) -> str:
    """Markdown as HTML: tags in it are shown as text, and links of scripts stay text too.

    Links open in a tab of their own, so that nobody loses the row before them.
    """
    from markdown_it import MarkdownIt

    # `html: False` escapes tags; the parser itself refuses javascript:, vbscript:, file: and most data: addresses.
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("link_open", _apart)
    return parser.render(markdown)


def _apart(renderer: Any, tokens: Any, index: int, options: Any, environment: Any) -> str:
    tokens[index].attrSet("target", "_blank")
    tokens[index].attrSet("rel", "noopener noreferrer")
    return str(renderer.renderToken(tokens, index, options, environment))
