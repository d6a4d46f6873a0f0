"""An SVG that matplotlib wrote, as part of a page: its colours those of the page, its letters the page's too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape


def inline(svg: str, name: str, title: str, description: str, colours: Mapping[str, str]) -> str:
    """The ``<svg>`` element of a file, ready to stand in HTML beside others.

    Args:
        svg: what matplotlib saved, with ``svg.fonttype`` "none".
        name: goes before every id, which are the page's together.
        title: what the picture is, for those who cannot see it.
        description: what it shows.
        colours: as drawn (``"#1B1F24"``) -> what to put instead (``"var(--ink)"``).
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r' xmlns(:\w+)?="[^"]*"', "", body)
    body = body.replace("xlink:href", "href")
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    # of matplotlib's shorthand, style and size stay and the family goes
    body = re.sub(r"font: ((?:bold |[67]00 )?[\d.]+px) [^;\"]*", r"font: \1 var(--sans)", body)
    for drawn, shown in colours.items():
        body = re.sub(re.escape(drawn), shown, body, flags=re.IGNORECASE)
    opening = re.match(r"<svg[^>]*>", body)
    assert opening is not None
    box = re.search(r'viewBox="([^"]*)"', opening[0])
    assert box is not None
    head = f'<svg viewBox="{box[1]}" role="img" aria-labelledby="{name}-title {name}-desc">'
    words = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    return head + words + body[opening.end() :].strip()
