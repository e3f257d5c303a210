"""Keypoints by MMPose: RTMPose, and its other top-down models, for the body and the whole body.

MMPose wants more installed than it uses: it imports models that need mmcv's compiled operators, and torchvision to
draw. Where those are not there, stand-ins take their place while it is imported, and refuse to be called.
"""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from remot_data.detectors._network import Runner, misfits, normalised
from remot_data.detectors._torch import as_layer, choose_device, read_checkpoint, stand_ins, without_warnings
from remot_data.detectors.base import Arrays, Batched, DetectorError, Pending, file_sha256
from remot_data.records import BOXES, digest
from remot_data.schemas import keypoint_set

if TYPE_CHECKING:
    import torch

ALIASES = {"body": "rtmpose-m_8xb256-420e_body8-256x192", "wholebody": "rtmpose-m_8xb64-270e_coco-wholebody-256x192"}
_SCHEMAS = {17: "coco17", 133: "wholebody133"}
_WANTED = ("mmcv._ext", "torchvision", "torchvision.transforms")
_ADVICE = (
    "install mmcv with its compiled operators (docker/mmpose.sh --build), or take an RTMPose model, which needs none"
)
_NAMED = 23  # body and feet; face and hands are numbered differently in every naming
_TIGHT = 1.25  # by how much MMPose widens tight boxes
_PLACE = 16  # bytes at the end of an item: centre and size of the box in the frame, four numbers
_FOLDERS = ("body_2d_keypoint/rtmpose", "wholebody_2d_keypoint/rtmpose")


class MMPose(Batched):
    """COCO's 17 keypoints or the 133 of the whole body by a top-down model of MMPose.

    The model looks at one box of every frame: that of the person's track, widened by 1.25, where the store has it, else
    all of the frame, since a clip is a crop around one person. MMPose's own steps cut that out at the size of the
    network's input, beside the network; its own codec finds the keypoints in what the network makes of it, there too.

    Args:
        model: ``body``, ``wholebody``, the name of a config that MMPose ships, or a config file of your own, which is
            Python code that is run.
        weights: a checkpoint for it; if not given, MMPose's own is downloaded into the cache of torch.hub.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``cuda`` if not given and torch sees one.
        batch: frames that go through the network together; 32 on a card and 1 elsewhere if not given.
        precision: ``float32``, or ``bfloat16`` for what torch's autocast runs in it of all but the head.
        threshold: keypoints of smaller confidence are stored as not seen.
        margin: the box is widened by this factor. MMPose widens tight boxes by 1.25; a clip has a margin already.
        detect: where the store does not have the person's box, find it with the default pose detector first, and widen
            that by 1.25 more; a frame where nobody is found is looked at whole.
        trust: read the file `weights` with pickle, which runs what is in it: only for files that you trust.

    Raises:
        DetectorError: for an unknown model, one of other keypoints, or weights that cannot be had or do not fit.
    """

    name = "mmpose"
    kind = "pose"
    version = "1"
    needs: tuple[str, ...] = (BOXES,)
    licence = "Apache-2.0; the data sets that its weights were trained on have terms of their own"
    approximate = False

    def __init__(
        self,
        model: str = "body",
        weights: str | Path | None = None,
        *,
        device: str | None = None,
        batch: int | None = None,
        precision: str = "float32",
        threshold: float = 0.3,
        margin: float = 1.0,
        detect: bool = False,
        trust: bool = False,
    ):
        mm = library()
        self.threshold, self.margin = threshold, margin
        if not margin > 0:
            raise DetectorError(f"mmpose: the margin is {margin}; give a factor above 0, 1 for the box as it is")
        self._config_path = find_config(model, mm.configs)
        self.model = self._config_path.stem
        if trust and weights is None:
            raise DetectorError("mmpose: trust is for a file that you name; give weights=FILE with it")
        config = _prepared(mm.Config.fromfile(str(self._config_path)), margin * (_TIGHT if detect else 1))
        self._config_digest = digest([config.model.to_dict(), config.test_dataloader.dataset.pipeline])
        self.device = choose_device(device, self.name, "0.05 to 0.5 seconds a frame, as the model is small or large")
        self._runner = Runner(self.name, self.device, batch, precision)
        self.batch = self._runner.batch
        with without_warnings():
            network = mm.init_model(config, None, device="cpu")
        self._dataset, self._test = network.dataset_meta, network.test_cfg
        self.schema = schema_of(self._dataset, self.model)
        self.path = Path(weights) if weights is not None else download(self._config_path)
        _load(network, _read(self.path, trust), self.path, self.model)
        self._pipeline, self._mmpose = mm.Compose(config.test_dataloader.dataset.pipeline), mm.version
        self._finders = _Finders() if detect else None
        sample = self._sample(np.zeros((8, 8, 3), np.uint8))
        self._meta, self._input = sample["data_samples"].metainfo, tuple(sample["inputs"].shape)
        self._colours = _colours(config.model.get("data_preprocessor", {}))
        # What the network makes is decoded in `join`: MMPose's codecs work on the CPU.
        self._decode = network.head.decode
        network.head.decode = _undecoded
        network.register_buffer("mirrored", _tensor(self._dataset["flip_indices"]), persistent=False)
        self._network = self._runner.place(network, exact=[network.head])

    def fingerprint(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"threshold": self.threshold, "margin": self.margin, **self._runner.settings}
        if self._finders is not None:
            settings["detect"] = self._finders.finder.fingerprint()
        return {
            "detector": self.name,
            "version": self.version,
            "mmpose": self._mmpose,
            "model": self.model,
            "config": self._config_digest,
            "weights": file_sha256(self.path),
            "settings": settings,
        }

    def split(self, frames: np.ndarray, **needed: Arrays) -> np.ndarray:
        """uint8 [T, N]: of each frame what the network sees, and then in bytes where that was."""
        items = np.empty((len(frames), int(np.prod(self._input)) + _PLACE), np.uint8)
        boxes = needed[BOXES]["own"] if BOXES in needed else None
        for t, (item, frame) in enumerate(zip(items, frames, strict=True)):
            sample = self._sample(frame, None if boxes is None or np.isnan(boxes[t]).any() else boxes[t])
            place = np.concatenate([sample["data_samples"].metainfo[key] for key in ("input_center", "input_scale")])
            item[:-_PLACE] = sample["inputs"].numpy().ravel()
            item[-_PLACE:] = place.astype(np.float32).view(np.uint8)
        return items

    def infer(self, items: np.ndarray) -> Arrays | Pending:
        with without_warnings():
            return self._runner(self._maps, items)

    def join(self, frames: np.ndarray, outputs: Arrays, **needed: Arrays) -> Arrays:
        """`keypoints` float32 [T, K, 3] of frames uint8 [T, H, W, 3], RGB."""
        if not outputs:
            return {"keypoints": np.zeros((len(frames), len(keypoint_set(self.schema)), 3), np.float32)}
        place = np.ascontiguousarray(outputs["place"]).view(np.float32)[:, None]
        centre, scale = place[..., :2], place[..., 2:]
        maps = tuple(_tensor(outputs[name]) for name in sorted(outputs) if name != "place")
        found = self._decode(maps if len(maps) > 1 else maps[0])
        points = np.stack([np.asarray(f.keypoints, np.float32)[0, :, :2] for f in found])
        scores = np.stack([np.asarray(f.keypoint_scores, np.float32)[0] for f in found])
        points = points / self._meta["input_size"] * scale + centre - 0.5 * scale
        if (kept := self._test.get("output_keypoint_indices")) is not None:
            points, scores = points[:, kept], scores[:, kept]
        # MMPose counts from the centre of the first pixel, the toolkit from its corner.
        return {"keypoints": as_layer(points.astype(np.float32) + 0.5, scores, frames.shape[1:3], self.threshold)}

    def _maps(self, items: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the head makes: maps, or rows of them, in which the codec finds keypoints; and `place`."""
        network, (swapped, mean, std) = self._network, self._colours
        images = items[:, :-_PLACE].reshape(-1, *self._input)
        images = (images.flip(1) if swapped else images).float()
        images = normalised(images, mean, std) if mean is not None else images
        looks = [images, images.flip(-1)] if self._test.get("flip_test", False) else [images]
        features = [_in_float(network.extract_feat(look)) for look in looks]
        # Numbers that are on the device already: a list would be sent to it.
        samples = [SimpleNamespace(metainfo={**self._meta, "flip_indices": network.mirrored})] * len(items)
        with self._runner.exact():
            maps = network.head.predict(features if len(looks) > 1 else features[0], samples, test_cfg=self._test)
        maps = maps if isinstance(maps, (tuple, list)) else [maps]
        return {"place": items[:, -_PLACE:], **{f"map{i}": one for i, one in enumerate(maps)}}

    def _sample(self, frame: np.ndarray, own: np.ndarray | None = None) -> dict[str, Any]:
        """What MMPose's steps make of a frame, of which the own box [4] is looked at where it is known."""
        box: tuple[float, ...] = (0.0, 0.0, float(frame.shape[1]), float(frame.shape[0]))
        if own is not None:
            grow = 0 if self._finders is not None else (_TIGHT - 1) / 2 * (own[2:] - own[:2])
            box = tuple(np.concatenate([own[:2] - grow, own[2:] + grow]).tolist())
        elif self._finders is not None and (bodies := self._finders.finder.body_boxes(frame)):
            box = bodies[0].box
        info = {
            "img": np.ascontiguousarray(frame[..., ::-1]),
            "bbox": np.array([box], np.float32),
            "bbox_score": np.ones(1, np.float32),
        }
        return self._pipeline({**info, **self._dataset})


def schema_of(meta: Mapping[str, Any], model: str) -> str:
    """The keypoint set of a model by MMPose's description of its data set: names, not only their number, decide."""
    names = [str(name).replace("_", "-") for _, name in sorted(meta["keypoint_id2name"].items())]
    schema = _SCHEMAS.get(len(names))
    if schema is None or names[:_NAMED] != list(keypoint_set(schema).points[:_NAMED]):
        raise DetectorError(
            f"mmpose: {model} gives {len(names)} keypoints of {meta.get('dataset_name', 'another set')}; supported are "
            "the 17 of COCO and the 133 of COCO-WholeBody: take mmpose:body or mmpose:wholebody"
        )
    return schema


def find_config(model: str, folder: Path) -> Path:
    """The config file of a model: of an alias, by the name it has in MMPose, or a file of the user's."""
    if model.endswith(".py"):
        if not Path(model).is_file():
            raise DetectorError(f"mmpose: there is no config file {model}")
        return Path(model)
    name = ALIASES.get(model, model)
    # A name, not a pattern: it must not lead out of the folder.
    found = sorted(path for path in folder.rglob("*.py") if path.stem == name)
    if not found:
        known = sorted(p.stem for part in _FOLDERS for p in (folder / part).rglob("*.py"))
        raise DetectorError(f"mmpose has no model {model!r}; take one of {', '.join([*ALIASES, *known])}")
    return found[0]


def published(config: Path) -> str:
    """The address of MMPose's own weights for one of its configs, as the list beside it has it."""
    for listing in sorted(config.parent.glob("*.yml")):
        for entry in yaml.safe_load(listing.read_text(encoding="utf-8")).get("Models", []):
            if Path(entry["Config"]).name == config.name and "Weights" in entry:
                return str(entry["Weights"])
    raise DetectorError(f"mmpose publishes no weights for {config.stem}; give weights=FILE")


def download(config: Path) -> Path:
    """MMPose's own weights for a config in the cache of torch.hub, fetched if they are not there.

    The name of the file has the first 8 digits of its sha256, which are checked as it comes in.
    """
    import torch

    url = published(config)
    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    digits = re.search(r"-([0-9a-f]{8})_\d{8}\.pth$", url)
    try:
        torch.hub.download_url_to_file(url, str(target), hash_prefix=digits and digits[1], progress=False)
    except (OSError, RuntimeError) as error:
        raise DetectorError(
            f"mmpose: the weights of {config.stem} cannot be fetched from {url} ({error}); fetch them where there is a "
            "network and give weights=FILE"
        ) from error
    return target


def library() -> SimpleNamespace:
    """What is used of MMPose and MMEngine; `ImportError` if they are not installed."""
    try:
        with without_warnings():
            importlib.import_module("mmcv")
            with stand_ins(_WANTED, _ADVICE):
                mmpose = importlib.import_module("mmpose")
                importlib.import_module("mmdet.models")  # where the backbones of RTMPose are
                importlib.import_module("mmpose.models")
                apis = importlib.import_module("mmpose.apis")
            dataset, config = (importlib.import_module(f"mmengine.{name}") for name in ("dataset", "config"))
    except ImportError as error:
        raise ImportError(f"{error}; docker/mmpose.sh installs what it takes") from error
    return SimpleNamespace(
        Config=config.Config,
        Compose=dataset.Compose,
        init_model=apis.init_model,
        configs=Path(mmpose.__path__[0]) / ".mim" / "configs",
        version=mmpose.__version__,
    )


def _prepared(config: Any, margin: float) -> Any:
    """A config whose test pipeline widens boxes by `margin`, and whose backbone fetches no weights of its own."""
    steps = [step for step in config.test_dataloader.dataset.pipeline if step["type"] == "GetBBoxCenterScale"]
    if not steps:
        raise DetectorError(
            "mmpose: the config is of no top-down model: its test pipeline takes no box; take mmpose:body"
        )
    for step in steps:
        step["padding"] = margin
    config.model.backbone.init_cfg = None
    return config


def _colours(preprocessor: Mapping[str, Any]) -> tuple[bool, Any, Any]:
    """What a config says of colours: whether BGR and RGB are swapped, the mean and the standard deviation."""
    swapped = bool(preprocessor.get("bgr_to_rgb") or preprocessor.get("rgb_to_bgr"))
    return swapped, preprocessor.get("mean"), preprocessor.get("std")


def _in_float(features: Any) -> Any:
    """Tensors, in sequences of sequences as a backbone gives them, in float32."""
    return type(features)(map(_in_float, features)) if isinstance(features, (tuple, list)) else features.float()


def _undecoded(outputs: Any) -> Any:
    return outputs


def _tensor(values: Any) -> torch.Tensor:
    import torch

    return torch.as_tensor(values)


def _read(path: Path, trust: bool) -> Any:
    import torch

    if trust and path.is_file():
        return torch.load(path, map_location="cpu", weights_only=False)
    return read_checkpoint(
        path,
        "mmpose",
        "a checkpoint of MMPose, with trust=true if you trust where it comes from: that reads it with pickle",
        _harmless(),
    )


def _harmless() -> list[Any]:
    """Classes that MMEngine's checkpoints hold beside tensors, which are only data: NumPy's arrays and numbers."""
    multiarray = importlib.import_module("numpy._core.multiarray")
    rebuild, scalar = multiarray._reconstruct, multiarray.scalar
    dtypes = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")}
    return [
        np.ndarray,
        np.dtype,
        *dtypes,
        *(
            (function, f"numpy.{core}.multiarray.{function.__name__}")
            for function in (rebuild, scalar)
            for core in ("core", "_core")
        ),
    ]


def _load(network: torch.nn.Module, checkpoint: Any, path: Path, model: str) -> None:
    import torch

    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise DetectorError(f"mmpose: {path} holds no tensors by name; give a checkpoint of {model}")
    state = {str(key).removeprefix("module."): tensor for key, tensor in state.items()}
    wanted = network.state_dict()
    said = misfits({k: tuple(t.shape) for k, t in state.items()}, {k: tuple(t.shape) for k, t in wanted.items()})
    if said:
        raise DetectorError(f"mmpose: the tensors of {path} do not fit {model}: {said}; give a checkpoint of {model}")
    network.load_state_dict(state, strict=False)


class _Finders(threading.local):
    """The default pose detector, one for each thread: LiteRT runs a network for one at a time."""

    def __init__(self) -> None:
        from remot_data.detectors.blazepose import BlazePose

        self.finder = BlazePose()
