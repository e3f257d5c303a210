"""`remot app`: a page in the browser, image and video in, result and its stages out.

The page is served on this machine alone unless told otherwise, asks no other server for anything, and reports nothing.
"""

from __future__ import annotations

import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2

from remot_data import assets, media
from remot_data.media import in_child
from remot_data.media.sandbox import ChildError
from remot_model import devices
from remot_model.checkpoint import Run, load_run
from remot_model.transferring.driving import Candidate, candidates
from remot_model.transferring.request import GAMS, TransferError
from remot_model.transferring.transfer import clearly, transfer

# Gradio looks at these when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr  # noqa: E402

log = logging.getLogger(__name__)

# The stages that are shown, with a word on each.
_STAGES = {
    "driving": "driving crop",
    "pose": "pose",
    "layout": "layout",
    "gam": "source after GAM (cyan) on the layout (yellow)",
    "coarse": "sum of the regions",
    "regions": "regions: top, bottom, head, limbs, shoes",
}
_OF_WHOLE = {"mask": "background mask", "weight": "weight of the raw image"}
_SAMPLES = (("sample-cam01", "sample-cam02"), ("sample-cam03", "sample-cam04"))
_HOUR = 3600
_CSS = """
video { object-fit: contain !important } .stage video { image-rendering: pixelated }
#who .grid-container { grid-template-columns: repeat(auto-fill, 7.5rem) !important; padding-top: 1.5rem }
#who .grid-container button { height: 10rem }
"""


def samples(folder: Path) -> list[list[str]]:
    """Pairs of a source image, written into `folder`, and a driving video, of `remot assets`.

    Empty, with a line in the log, where the samples cannot be had.
    """
    found = []
    try:
        for source, driving in _SAMPLES:
            frame = in_child.first_frame(assets.fetch(source))
            path = folder / f"{source}.png"
            cv2.imwrite(str(path), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            found.append([str(path), str(assets.fetch(driving))])
    except (assets.AssetError, media.VideoError, ChildError, OSError) as error:
        log.warning("the page has no sample inputs: %s", error)
    return found


def page(run: Run, device: str = "cpu", given: list[list[str]] | None = None) -> gr.Blocks:
    """The page of a run.

    Args:
        run: with every stage trained.
        device: where the run is.
        given: pairs of a source image and a driving video to choose from.
    """
    with suppress(ImportError):  # so that gradio takes HEIC for a picture
        from pi_heif import register_heif_opener

        register_heif_opener()
    stages = {**_STAGES, **(_OF_WHOLE if run.config.use_wcn else {})}
    height, width = run.config.size
    scale = -(-256 // height)

    def look(driving: str | None) -> tuple[Any, None]:
        """The persons of a driving video to choose from, where there are several."""
        found: list[Candidate] = []
        if driving:
            # Nobody, or a file that cannot be read: what is wrong is said when a transfer is asked for.
            with suppress(TransferError), clearly():
                found = candidates(Path(driving))
        pictures = [(one.picture, f"person {one.number}") for one in found]
        return gr.Gallery(value=pictures, visible=len(found) > 1), None

    def choose(event: gr.SelectData) -> int:
        return int(event.index) + 1

    def make(
        source: str | None,
        driving: str | None,
        background: str,
        gam: str,
        person: int | None,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> list:
        if not source or not driving:
            raise gr.Error("Give a source image and a driving video first.", print_exception=False)
        out = Path(tempfile.mkdtemp(prefix="remot-app-", dir=_cache())) / "result.mp4"
        try:
            done = transfer(
                run,
                source,
                driving,
                out,
                background=background,
                gam=gam,
                person=person,
                save=tuple(stages),
                scale=scale,
                device=device,
                progress=lambda made, total: progress((made, total), unit="frames"),
            )
        except TransferError as error:
            raise gr.Error(f"{error}.", duration=None, print_exception=False) from error
        words = f"{done['frames']} frames at {done['fps']:g} a second, made at {done['frames_per_second']:g} a second."
        return [str(out), "\n".join([words, *(f"- {note}" for note in done["notes"])]), *done["saved"]]

    with gr.Blocks(title="REMOT", analytics_enabled=False, fill_width=True, delete_cache=(_HOUR, 24 * _HOUR)) as blocks:
        gr.Markdown(
            "# REMOT motion transfer\nThe person of the image moves as the person of the video does. "
            f"Run `{run.path.name}`, {run.config.name}, {height}x{width}."
        )
        with gr.Row():
            # Without a mode the file comes as it is; in RGB what is transparent would be any colour.
            source = gr.Image(
                label="Source: who appears", type="filepath", sources=["upload"], image_mode=None, height=320
            )
            driving = gr.Video(label="Driving: who moves", sources=["upload"], height=320)
            result = gr.Video(
                label="Result", autoplay=True, loop=True, height=320, elem_classes="stage", elem_id="result"
            )
        who = gr.Gallery(
            label="Several persons dance: choose who drives",
            visible=False,
            columns=8,
            height=220,
            object_fit="contain",
            allow_preview=False,
            interactive=False,
            elem_id="who",
        )
        person = gr.State(None)
        driving.change(look, driving, [who, person], concurrency_limit=1, show_progress_on=driving)
        who.select(choose, None, person)
        with gr.Row():
            background = gr.Radio(["source", "driving", "black"], value="source", label="Background")
            gam = gr.Radio(list(GAMS), value=GAMS[0], label="Alignment (GAM)")
            start = gr.Button("Transfer", variant="primary", elem_id="transfer")
        notes = gr.Markdown(elem_id="notes")
        if given:
            gr.Examples(given, [source, driving], label="Samples", cache_examples=False)
        gr.Markdown("## Stages")
        shown = []
        for row in range(0, len(stages), 4):
            with gr.Row():
                shown += [
                    gr.Video(label=words, autoplay=True, loop=True, height=280, elem_classes="stage")
                    for words in list(stages.values())[row : row + 4]
                ]
        given_to_make, made = [source, driving, background, gam, person], [result, notes, *shown]
        start.click(make, given_to_make, made, concurrency_limit=1, show_progress_on=result)
    return blocks


def _cache() -> str:
    """The folder whose files Gradio may show, and clears."""
    folder = os.environ.setdefault("GRADIO_TEMP_DIR", str(Path(tempfile.gettempdir()) / "gradio"))
    os.makedirs(folder, exist_ok=True)
    return folder


def serve(
    run: str | Path, *, host: str = "127.0.0.1", port: int = 7860, device: str = "auto", block: bool = True
) -> tuple[gr.Blocks, str]:
    """Serve the page of a run folder; returns it and its address, after Ctrl-C unless told not to `block`.

    Raises:
        CheckpointError: if `run` is no run folder.
        TransferError: if it lacks a stage, or the port is taken.
    """
    place = str(devices.pick(device))
    opened = load_run(run, place)
    if lacks := opened.untrained():
        raise TransferError(lacks)
    given = samples(Path(tempfile.mkdtemp(prefix="remot-samples-", dir=_cache())))
    blocks = page(opened, place, given)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    try:
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=not block,
            theme=gr.themes.Default(**fonts),
            css=_CSS,
            footer_links=[],
            ssr_mode=False,
            allowed_paths=sorted({str(Path(path).parent) for pair in given for path in pair}),
        )
    except OSError as error:
        raise TransferError(f"the page cannot be served: {error}; give another --port") from error
    return blocks, address
