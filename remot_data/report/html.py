"""Pieces of HTML: text that is escaped unless it is HTML already, tables, bars, and numbers as they are read.

Everything that comes from outside (names, messages, numbers) goes through `markup`, which escapes it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from remot_data.store.disk import write_whole


class Html(str):
    """Text that is HTML already; every other value is escaped on its way into the page."""


def markup(template: str, *values: Any, **named: Any) -> Html:
    """A template of HTML with its ``{}`` filled in; what is put there is escaped unless it is HTML already."""
    return Html(template.format(*map(_safe, values), **{k: _safe(v) for k, v in named.items()}))


def _safe(value: Any) -> str:
    return value if isinstance(value, Html) else escape(str(value))


def join(parts: Iterable[Any], between: str = "") -> Html:
    return Html(_safe(between).join(map(_safe, parts)))


def write_html(out: Path, title: str, body: Iterable[Html], script: str = "") -> None:
    """Write one self-contained page at once; it forbids all but its own script and embedded data."""
    page = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8")).substitute(
        title=markup("{}", title),
        body=join(body, "\n"),
        script=script,
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_whole(out, page.encode())


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Iterable[int] = (), kind: str = ""
) -> Html:
    """A table whose first column names the rows; columns in `numbers` are aligned to the right."""
    right = set(numbers)

    def cell(i: int, value: Any) -> Html:
        if isinstance(value, Html) and value.startswith(("<td", "<th")):
            return value
        classes = markup(' class="number"') if i in right else ""
        return markup("<th scope=row{}>{}</th>" if i == 0 else "<td{}>{}</td>", classes, value)

    def title(i: int, text: str) -> Html:
        return markup("<th scope=col{}>{}</th>", markup(' class="number"') if i in right else "", text)

    body = (markup("<tr>{}</tr>", join(cell(i, v) for i, v in enumerate(row))) for row in rows)
    return markup(
        '<div class="scroll" role="region" tabindex="0" aria-label="{caption}"><table class="{kind}">'
        "<caption>{caption}</caption><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>",
        caption=caption,
        kind=kind,
        titles=join(title(i, text) for i, text in enumerate(head)),
        body=join(body),
    )


def bar(parts: Sequence[tuple[str, float, str]], label: str, kind: str = "bar") -> Html:
    """A bar of (name, amount, class or colour) parts, as wide as their amounts."""
    total = sum(amount for _, amount, _ in parts) or 1
    spans = (
        markup(
            '<span class="{}" style="width:{}%;{}" title="{}"></span>',
            "" if look.startswith("#") else look,
            f"{100 * amount / total:.2f}",
            f"background:{look}" if look.startswith("#") else "",
            name,
        )
        for name, amount, look in parts
        if amount
    )
    return markup('<div class="{}" role="img" aria-label="{}">{}</div>', kind, label, join(spans))


def legend(items: Iterable[tuple[str, str]]) -> Html:
    """Names beside their colour: pairs of a name and a class or ``#rrggbb``."""
    entries = (
        markup('<li><span class="swatch" style="background:{}"></span>{}</li>', look, name)
        if look.startswith("#")
        else markup('<li><span class="swatch {}"></span>{}</li>', look, name)
        for name, look in items
    )
    return markup('<ul class="key">{}</ul>', join(entries))


def facts(pairs: Iterable[tuple[str, Any]]) -> Html:
    """Names and values as the items of a ``dl``."""
    return join(markup("<div><dt>{}</dt><dd>{}</dd></div>", name, value) for name, value in pairs)


def data_url(kind: str, content: bytes) -> str:
    """Content of a MIME type as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def short(value: float) -> str:
    """A number as short as it stays meaningful."""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def plural(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def file_size(amount: float) -> str:
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.0f} {units[0]}" if units[0] == "bytes" or amount >= 100 else f"{amount:.1f} {units[0]}"
