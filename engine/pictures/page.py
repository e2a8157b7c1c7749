"""One HTML page that needs nothing else: pictures and style are inside the file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from PIL import Image

from ...errors import cleaned

__all__ = ["Page"]

_STYLE = """
:root { color-scheme: light dark; --ink: #18181b; --faint: #6b6b76; --paper: #fff; --line: #e4e4e7 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f4f4f5; --faint: #a1a1aa; --paper: #18181b; --line: #3f3f46 }
}
body { margin: 0 auto; max-width: 1200px; padding: 24px; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 24px; margin: 0 0 4px } h2 { font-size: 19px; margin: 36px 0 8px }
h3 { font-size: 16px; margin: 28px 0 4px } p a { color: inherit }
p { margin: 6px 0; max-width: 80ch } .faint { color: var(--faint); font-size: 14px }
figure { margin: 12px 0; overflow-x: auto } figcaption { color: var(--faint); font-size: 14px }
img { box-sizing: border-box; max-width: 100%; height: auto; border: 1px solid var(--line) }
nav { margin: 12px 0; display: flex; flex-wrap: wrap; gap: 2px 16px; max-height: 160px;
  overflow: auto }
nav a { color: inherit }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 14px; overflow-wrap: normal }
th, td { padding: 3px 14px 3px 0; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; font-variant-numeric: tabular-nums }
""".strip()


def _text(text: str) -> str:
    """Text as a page shows it: no tags in it, and nothing that acts where the file is printed."""
    return html.escape("\n".join(cleaned(line) for line in text.split("\n")))


class Page:
    """A page, written from top to bottom. Text is escaped; nothing is loaded from anywhere.

    title: also the heading. lead: a line under it.
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self.title = title
        self._body = [f"<p>{_text(lead)}</p>" if lead else ""]
        self._sections: list[str] = []

    def section(self, title: str, text: str = "") -> None:
        """A heading, listed in the page's navigation, and a paragraph."""
        self._sections.append(title)
        self._body.append(f'<h2 id="s{len(self._sections)}">{_text(title)}</h2>')
        if text:
            self.text(text)

    def text(self, text: str, *, faint: bool = False) -> None:
        """A paragraph."""
        kind = ' class="faint"' if faint else ""
        self._body.append(f"<p{kind}>{_text(text)}</p>")

    def place(self, title: str, name: str) -> None:
        """A smaller heading that `links` leads to by its name; the navigation has none of these."""
        self._body.append(f'<h3 id="{_text(name)}">{_text(title)}</h3>')

    def links(self, lead: str, to: Sequence[tuple[str, str]]) -> None:
        """A line of links to places: (text, name) each; nothing where there is none."""
        if to:
            made = ", ".join(
                # Names hold what layers are called: in an address that is written as %XX.
                f'<a href="#{quote(cleaned(name), safe="", errors="surrogatepass")}">'
                f"{_text(text)}</a>"
                for text, name in to
            )
            self._body.append(f"<p>{_text(lead)} {made}</p>")

    def picture(
        self, image: Image.Image, alt: str, caption: str = "", *, kind: str = "PNG"
    ) -> None:
        """A picture as part of the file; alt: what it shows, in words. kind: JPEG where there are
        many of photos."""
        buffer = io.BytesIO()
        image.save(buffer, kind, **({"quality": 75} if kind == "JPEG" else {}))
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        below = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
        self._body.append(
            f'<figure><img src="data:image/{kind.lower()};base64,{data}" width="{image.width}" '
            # Smaller than this its letters can't be read: a wide one is scrolled instead.
            f'height="{image.height}" style="min-width: {image.width * 7 // 8}px" '
            f'alt="{_text(alt)}">{below}</figure>'
        )

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Rows under a head."""
        lines = ["<tr>" + "".join(f"<th>{_text(h)}</th>" for h in head) + "</tr>"]
        for row in rows:
            lines.append("<tr>" + "".join(f"<td>{_text(str(c))}</td>" for c in row) + "</tr>")
        self._body.append('<div class="wide"><table>' + "\n".join(lines) + "</table></div>")

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Names and what they are, in two columns."""
        self._body.append(
            '<div class="wide"><table>'
            + "\n".join(
                f"<tr><th>{_text(k)}</th><td>{_text(str(v))}</td></tr>" for k, v in facts.items()
            )
            + "</table></div>"
        )

    def to_bytes(self) -> bytes:
        """The file."""
        links = "".join(
            f'<a href="#s{number}">{_text(title)}</a>'
            for number, title in enumerate(self._sections, 1)
        )
        nav = f"<nav>{links}</nav>" if len(self._sections) > 1 else ""
        title = _text(self.title)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            # A page that loads nothing can say so: the browser then enforces it.
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
            f"<title>{title}</title>\n<style>\n{_STYLE}\n</style></head>\n<body>\n"
            f"<h1>{title}</h1>\n" + nav + "\n".join(self._body) + "\n</body></html>\n"
        ).encode("utf-8", "backslashreplace")
