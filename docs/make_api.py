"""Writes docs/api.md: the public names of both packages, out of their docstrings.

python docs/make_api.py [FILE]
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

sys.modules["black"] = None  # type: ignore[assignment]  # else the page depends on whether it is installed

from griffe2md import ConfigDict, render_package_docs  # noqa: E402

HERE = Path(__file__).parent
PACKAGES = ("remot_data", "remot_model")
HEAD = """# Public names

What `remot_data` and `remot_model` export, by name. Made from the docstrings by `python docs/make_api.py`; a test
fails where it is not up to date.

"""
CONFIG = ConfigDict(
    docstring_style="google",
    docstring_section_style="list",
    filters=["!^_"],
    group_by_category=False,
    members_order="alphabetical",
    separate_signature=True,
    show_category_heading=False,
    show_if_no_docstring=False,
    show_object_full_path=False,
    show_root_members_full_path=True,
    show_signature_annotations=True,
    show_submodules=False,
    summary=False,
)
_LINK = re.compile(r"\[([^][]*)\]\(#[^)]*\)")


def page() -> str:
    """The whole page."""
    logging.getLogger("griffe").setLevel(logging.ERROR)
    return HEAD + "\n\n".join(map(_of, PACKAGES)) + "\n"


def _of(package: str) -> str:
    text = render_package_docs(package, CONFIG)
    # Types become plain code, since most names that they link to are not on this page.
    text = re.sub(r"<code>(.*?)</code>", _plain, text)
    text = re.sub(r"\[\*\*(\w+)\*\*\]\(#[^)]*\)", r"`\1`", text)
    text = re.sub(r"(?<=```python\n)(\w+)\((.*)\)( -> .*)?(?=\n```)", _wrapped, text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _wrapped(signature: re.Match[str]) -> str:
    """A signature with a line for each parameter, where one for all is too long."""
    name, parameters, result = signature[1], signature[2], signature[3] or ""
    if len(signature[0]) <= 100:
        return signature[0]
    # Commas within brackets belong to a type or a default.
    split = re.split(r", (?![^()]*\))(?![^\[\]]*\])", parameters)
    return "\n".join([f"{name}(", *(f"    {parameter}," for parameter in split), f"){result}"])


def _plain(code: re.Match[str]) -> str:
    return "`" + _LINK.sub(r"\1", code[1]) + "`"


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "api.md").write_text(page())
