"""The words of a picture."""

import html
import re


def picture_text(dot: str) -> str:
    """All text of a picture in DOT, with one space where lines break and cells end."""
    return " ".join(html.unescape(re.sub(r"<[^<>]*>", " ", dot)).split())
