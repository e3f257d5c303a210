"""Human parsing by a SegFormer (Xie et al., NeurIPS 2021) of transformers, trained on the 18 labels of ATR."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from remot_data.detectors._boxes import without_others
from remot_data.detectors._network import Runner, normalised
from remot_data.detectors._torch import choose_device, read_checkpoint
from remot_data.detectors.base import Arrays, Batched, DetectorError, Pending, file_sha256
from remot_data.records import BOXES, VALID
from remot_data.schemas import label_set

if TYPE_CHECKING:
    import torch

_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_EXPECTED = "a folder with config.json and model.safetensors, or one of these two next to the other"


class SegFormerClothes(Batched):
    """Labels of clothes and body parts for every frame.

    Frames are stretched to the input that the model was trained with, and its coarse scores are enlarged to the frame
    before the best label is taken.

    Args:
        model: name on the Hugging Face hub, downloaded into its cache where no weights are given.
        weights: a folder as `save_pretrained` writes it, or a ``.safetensors`` or ``.bin`` file with its
            ``config.json`` beside it.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``cuda`` if not given and torch sees one.
        batch: frames that go through the network together; 32 on a card and 1 elsewhere if not given.
        precision: ``float32`` or ``bfloat16``.

    Raises:
        DetectorError: if the weights cannot be had, do not fit, or the model has other labels than ``atr18``.
    """

    name = "segformer"
    kind = "parsing"
    version = "2"
    schema = "atr18"
    needs: tuple[str, ...] = (BOXES, VALID)
    licence = "Apache-2.0; weights trained from NVIDIA's SegFormer: non-commercial"
    approximate = False

    def __init__(
        self,
        model: str = "mattmdjaga/segformer_b2_clothes",
        weights: str | Path | None = None,
        *,
        device: str | None = None,
        batch: int | None = None,
        precision: str = "float32",
    ):
        import transformers

        self.library = transformers.__version__
        self.device = choose_device(device, self.name, "one to five seconds a frame")
        self._runner = Runner(self.name, self.device, batch, precision)
        self.batch = self._runner.batch
        given = Path(weights) if weights is not None else _downloaded(model)
        self.path, folder = _weights_file(given)
        config = transformers.SegformerConfig.from_dict(_json(folder / "config.json"))
        check_labels(config.id2label, self.schema, str(folder / "config.json"))
        preprocessor = folder / "preprocessor_config.json"
        self._input = input_of(_json(preprocessor) if preprocessor.is_file() else {}, str(preprocessor))
        self._config = config.to_diff_dict()
        self._network = self._runner.place(_network(config, self.path), mixed=False)

    def fingerprint(self) -> dict[str, Any]:
        network = {key: value for key, value in self._config.items() if key not in _NO_MATTER}
        return {
            "detector": self.name,
            "version": self.version,
            "transformers": self.library,
            "weights": file_sha256(self.path),
            "settings": {"network": network, "input": self._input, **self._runner.settings},
        }

    def infer(self, items: np.ndarray) -> Arrays | Pending:
        return self._runner(self._labels, items)

    def join(self, frames: np.ndarray, outputs: Arrays, **needed: Arrays) -> Arrays:
        """`labels` uint8 [T, H, W] of frames uint8 [T, H, W, 3], RGB."""
        labels = outputs["labels"] if outputs else np.zeros(frames.shape[:3], np.uint8)
        return {"labels": without_others(labels, needed.get(BOXES), needed.get(VALID))}

    def _labels(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        import torch

        images = prepared(frames, self._input).to(self._runner.dtype)
        scores = self._network(pixel_values=images).logits.float()
        full = torch.nn.functional.interpolate(scores, frames.shape[1:3], mode="bilinear", align_corners=False)
        return {"labels": full.argmax(1).to(torch.uint8)}


# Of a config, what does not change the labels; the names of the labels were checked.
_NO_MATTER = ("transformers_version", "_name_or_path", "architectures", "dtype", "id2label", "label2id")


def check_labels(names: Mapping[Any, str], schema: str, where: str) -> None:
    """Check that a model's labels are those of a schema, by name and in order; `DetectorError` names the first other.

    Args:
        names: label id to name, as ``id2label`` in a config.
    """
    wanted = label_set(schema).labels
    have = [_plain(names[i]) for i in sorted(names, key=int)]
    wrong = next((i for i, (a, b) in enumerate(zip(have, wanted, strict=False)) if a != b), min(len(have), len(wanted)))
    if len(have) == len(wanted) == wrong:
        return
    if len(have) != len(wanted):
        said = f"it has {len(have)} labels and {schema} has {len(wanted)}"
    else:
        said = f"label {wrong} is {have[wrong]!r} there and {wanted[wrong]!r} in {schema}"
    raise DetectorError(
        f"segformer: the labels of {where} are not those of {schema}: {said}; give a model trained on ATR whose "
        f"id2label says {', '.join(wanted)}"
    )


def _plain(name: str) -> str:
    return str(name).strip().lower().replace("_", "-").replace(" ", "-")


def input_of(preprocessor: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a ``preprocessor_config.json`` says of the network's input: `size` [H, W], `mean`, `std`, `scale`.

    What it does not say is as in `transformers.SegformerImageProcessor`: 512 x 512, the mean and standard deviation of
    ImageNet, values 0 to 1.
    """
    size = preprocessor.get("size", 512)
    sides = [size.get("height"), size.get("width")] if isinstance(size, Mapping) else [size, size]
    if isinstance(size, (list, tuple)) or not all(isinstance(side, int) and side > 0 for side in sides):
        raise DetectorError(f"segformer: {where} asks for the input size {size}; give height and width in pixels")
    return {
        "size": sides,
        "mean": list(preprocessor.get("image_mean", (0.485, 0.456, 0.406))),
        "std": list(preprocessor.get("image_std", (0.229, 0.224, 0.225))),
        "scale": float(preprocessor.get("rescale_factor", 1 / 255)),
    }


def prepared(frames: torch.Tensor, wanted: Mapping[str, Any]) -> torch.Tensor:
    """Frames uint8 [N, H, W, 3] stretched and normalised, float32 [N, 3, h, w]; `wanted` as `input_of` gives it."""
    import torch

    images = torch.nn.functional.interpolate(
        frames.permute(0, 3, 1, 2).float(), wanted["size"], mode="bilinear", align_corners=False, antialias=True
    )
    return normalised(images * wanted["scale"], wanted["mean"], wanted["std"])


def _downloaded(model: str) -> Path:
    """The folder of a model in the cache of the Hugging Face hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        what = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:200]
        raise DetectorError(
            f"segformer: {model} cannot be had from the Hugging Face hub ({what}); download {', '.join(_FILES)} by "
            "other means into one folder and give weights=FOLDER"
        ) from error


def _weights_file(given: Path) -> tuple[Path, Path]:
    """The file with the tensors, and the folder of its config."""
    candidates = [given / name for name in _WEIGHTS] if given.is_dir() else [given]
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        raise DetectorError(f"segformer: there are no weights at {given}; give {_EXPECTED}")
    if not (path.parent / "config.json").is_file():
        raise DetectorError(f"segformer: {path} has no config.json next to it; give {_EXPECTED}")
    return path, path.parent


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DetectorError(f"segformer: {path} cannot be read as JSON ({error}); give {_EXPECTED}") from error
    if not isinstance(content, dict):
        raise DetectorError(f"segformer: {path} holds no JSON object; give {_EXPECTED}")
    return content


def _network(config: Any, path: Path) -> Any:
    """The network with the tensors of a file, every one in its place; names of older versions are understood."""
    from transformers import SegformerForSemanticSegmentation

    with _no_progress_bar():
        network, loading = SegformerForSemanticSegmentation.from_pretrained(
            None, config=config, state_dict=_tensors(path), output_loading_info=True, ignore_mismatched_sizes=True
        )
    wrong = [
        f"{len(loading[key])} {what} ({', '.join(sorted(map(str, loading[key]))[:3])})"
        for key, what in (
            ("missing_keys", "missing"),
            ("unexpected_keys", "not of this network"),
            ("mismatched_keys", "of another shape"),
        )
        if loading[key]
    ]
    if wrong:
        raise DetectorError(
            f"segformer: the tensors of {path} do not fit the network of its config.json: {'; '.join(wrong)}; "
            f"give {_EXPECTED}"
        )
    return network.float()


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _tensors(path: Path) -> dict[str, Any]:
    if path.suffix != ".safetensors":
        return read_checkpoint(path, "segformer", _EXPECTED)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DetectorError(f"segformer: {path} is no safetensors file ({error}); give {_EXPECTED}") from error
