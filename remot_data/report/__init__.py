"""One HTML page about a store, and about what was trained from it: no other file, no network, no library.

Everything that comes from outside is escaped on its way into the page (`html`); the page itself forbids all but
its own script and embedded data.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from remot_data.media import sandbox
from remot_data.report.clips import contact_sheet
from remot_data.report.errors import ReportError
from remot_data.report.html import markup, write_html
from remot_data.report.runs import run_section
from remot_data.report.sections import distributions, header, overview, refused, snapshots_and_layers, times
from remot_data.report.timeline import timelines
from remot_data.report.view import View
from remot_data.store import Store, open_store

__all__ = ["ReportError", "write_report"]

# With a mouse a clip plays while it is pointed at, and shows its controls only then or in focus.
_SCRIPT = """
for (const curves of document.querySelectorAll(".curves")) {
  const film = curves.parentElement.querySelector("video"), frames = Number(curves.dataset.frames);
  const show = (frame) => {
    film.preload = "auto";
    film.pause();
    const seek = () => { film.currentTime = (frame + 0.5) / frames * film.duration; };
    if (film.readyState > 0) seek(); else film.addEventListener("loadedmetadata", seek, { once: true });
  };
  for (const button of curves.querySelectorAll("button"))
    button.addEventListener("click", () => show(Number(button.dataset.frame)));
  for (const curve of curves.querySelectorAll("svg"))
    curve.addEventListener("click", (event) => {
      const box = curve.getBoundingClientRect();
      show(Math.round((event.clientX - box.left) / box.width * (frames - 1)));
    });
  const move = () => {
    const x = film.duration ? film.currentTime / film.duration * frames - 0.5 : 0;
    const at = Math.min(Math.max(x, 0), frames - 1);
    for (const line of curves.querySelectorAll(".now")) line.setAttribute("transform", `translate(${at} 0)`);
  };
  for (const name of ["timeupdate", "seeked"]) film.addEventListener(name, move);
}
if (matchMedia("(any-hover: hover)").matches)
  for (const film of document.querySelectorAll("video[data-hover]")) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const controls = (on) => () => { film.controls = on || document.activeElement === film; };
    film.controls = false;
    film.tabIndex = 0;
    film.addEventListener("pointerenter", controls(true));
    film.addEventListener("focus", controls(true));
    film.addEventListener("pointerleave", controls(false));
    film.addEventListener("blur", () => { film.controls = film.matches(":hover"); });
    if (!calm) film.addEventListener("pointerenter", () => film.play().catch(() => {}));
    if (!calm) film.addEventListener("pointerleave", () => film.pause());
  }
"""


def write_report(
    store: Store | str,
    out: str | os.PathLike[str],
    *,
    runs: Sequence[str | os.PathLike[str]] = (),
    most_clips: int = 24,
    beside: Mapping[str, str] | None = None,
) -> Path:
    """Write a self-contained HTML page about a store, and about runs trained from it.

    Args:
        store: a store or its URL. Its clips are shown with the layers of the snapshot ``main``, or of the first
            one where there is no ``main``.
        out: the HTML file; it appears under its name when it is whole.
        runs: run folders of training; what they do not hold yet is left out.
        most_clips: most clips on the contact sheet, chosen evenly.
        beside: kind -> id, or its beginning, of layers to show next to those of the snapshot.

    Returns:
        The path of the page.

    Raises:
        ReportError: for a damaged ledger, or a run folder that is missing or holds a damaged file.
        StoreError: for a store that cannot be read.
    """
    if runs:
        sandbox.prepare()  # for their videos
    store = store if isinstance(store, Store) else open_store(store)
    view = View(store, [store.layer(kind, layer_id) for kind, layer_id in (beside or {}).items()])
    # What may be damaged comes first: the films of the clips take longer.
    trained = [(f"run-{i}", f"Run {Path(run).resolve().name}", run_section(Path(run))) for i, run in enumerate(runs, 1)]
    sections = [
        ("refused", "Refused", refused(view)),
        ("persons", "Persons", timelines(view)),
        ("snapshots", "Snapshots and layers", snapshots_and_layers(view)),
        ("clips", "Clips", contact_sheet(view, most_clips)),
        ("distributions", "Distributions", distributions(view)),
        ("time", "Time", times(view)),
        *trained,
    ]
    shown = [(anchor, title, body) for anchor, title, body in sections if body]
    body = [
        header(view, [(anchor, title) for anchor, title, _ in shown]),
        markup("<main>"),
        overview(view),
        *(markup('<section id="{}"><h2>{}</h2>{}</section>', *section) for section in shown),
        markup("</main>"),
    ]
    out = Path(out)
    write_html(out, f"Report on {view.name}", body, _SCRIPT)
    return out
