"""Keypoints by detectron2's keypoint R-CNN, and the person's mask by its Mask R-CNN.

Version 0.6 without its compiled operators is enough: these networks take NMS and RoIAlign from torchvision. What
detectron2 imports of its own operators all the same is a stand-in, which refuses to be called.
"""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from remot_data.detectors._boxes import Sight, sights, which
from remot_data.detectors._network import Runner, inference, misfits
from remot_data.detectors._torch import as_layer, choose_device, read_checkpoint, stand_ins, without_warnings
from remot_data.detectors.base import Arrays, Batched, DetectorError, Pending, file_sha256
from remot_data.records import BOXES

if TYPE_CHECKING:
    import torch

KEYPOINTS = "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x"
MASKS = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
_PERSON = 0  # of COCO's classes
_MOST = 8  # persons of a frame, the largest, of which one is taken
_SAME = 0.3  # overlap from which the boxes of the two networks are of one person
# What older files hold beside the weights; the networks of 0.6 make these themselves.
_MADE = ("pixel_mean", "pixel_std", "anchor_generator.cell_anchors.")
_ADVICE = "build detectron2 from its source with its operators, or take one of the networks in docs/detectors.md"


class Detectron2Pose(Batched):
    """COCO's 17 keypoints of a person in each frame, and that person's mask if asked for.

    It is the person of the clip's track where the store has boxes, else the largest.

    Args:
        model: a keypoint R-CNN of detectron2's model zoo, as ``COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x``.
        weights: a checkpoint for it (``.pkl`` or ``.pth``); if not given, the zoo's own is downloaded by detectron2.
        mask: whether a Mask R-CNN gives the person's mask as well, which takes as long again.
        mask_model: which one; `mask_weights` a checkpoint for it.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``cuda`` if not given and torch sees one.
        batch: frames that go through the network together; 8 on a card and 1 elsewhere if not given.
        precision: ``float32``, or ``bfloat16`` for what torch's autocast runs in it of the backbone.
        size: pixels that the shorter side of a frame is brought to; less is faster and finds less.
        score: people of smaller score are skipped.
        threshold: keypoints of smaller confidence are stored as not seen. detectron2's confidences are small: it
            draws keypoints from 0.05 on.

    Raises:
        DetectorError: for an unknown model, one without keypoints, or weights that cannot be had or do not fit.
    """

    name = "detectron2"
    kind = "pose"
    version = "2"
    schema = "coco17"
    needs: tuple[str, ...] = (BOXES,)
    licence = "Apache-2.0; its weights CC BY-SA 3.0"
    approximate = False

    def __init__(
        self,
        model: str = KEYPOINTS,
        weights: str | Path | None = None,
        *,
        mask: bool = False,
        mask_model: str = MASKS,
        mask_weights: str | Path | None = None,
        device: str | None = None,
        batch: int | None = None,
        precision: str = "float32",
        size: int = 800,
        score: float = 0.5,
        threshold: float = 0.05,
    ):
        d2 = library()
        self.size, self.score, self.threshold = size, score, threshold
        if size < 32:
            raise DetectorError(
                f"detectron2: a shorter side of {size} pixels is too small; give 32 or more, 800 is usual"
            )
        self.device = choose_device(device, self.name, "some seconds a frame for each network")
        self._runner = Runner(self.name, self.device, batch, precision, on_card=8)
        self.batch = self._runner.batch
        self._version, self._paste = d2.version, d2.paste
        self._people = Network(d2, model, weights, "keypoints", self._runner, size, score)
        self._masks = Network(d2, mask_model, mask_weights, "masks", self._runner, size, score) if mask else None

    def fingerprint(self) -> dict[str, Any]:
        networks = [network for network in (self._people, self._masks) if network is not None]
        return {
            "detector": self.name,
            "version": self.version,
            "detectron2": self._version,
            "model": [network.model for network in networks],
            "weights": [file_sha256(network.path) for network in networks],
            "settings": {
                "size": self.size,
                "score": self.score,
                "threshold": self.threshold,
                **self._runner.settings,
            },
        }

    def infer(self, items: np.ndarray) -> Arrays | Pending:
        with without_warnings():
            return self._runner(self._persons, items)

    def join(self, frames: np.ndarray, outputs: Arrays, **needed: Arrays) -> Arrays:
        """`keypoints` float32 [T, 17, 3] of frames uint8 [T, H, W, 3], RGB, and `mask` uint8 [T, H, W] if asked for."""
        import torch

        size = frames.shape[1:3]
        outputs = _of_one(outputs, list(sights(needed[BOXES], size)) if BOXES in needed else None)
        points = outputs.get("keypoints", np.zeros((len(frames), 17, 3), np.float32))
        out = {"keypoints": as_layer(points[..., :2], points[..., 2], size, self.threshold)}
        if self._masks is not None:
            out["mask"] = np.zeros(frames.shape[:3], np.uint8)
            with inference("cpu"), without_warnings():
                for t in np.flatnonzero(outputs["mask_boxes"].any(1)) if outputs else ():
                    soft, box = (torch.from_numpy(outputs[name][t : t + 1]) for name in ("masks", "mask_boxes"))
                    out["mask"][t] = self._paste(soft, box, size, threshold=-1)[0].numpy()
        return out

    def _persons(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of the largest persons in frames [n, H, W, 3] the keypoints and boxes, and the masks if asked for."""
        found = self._people(frames, lambda t, boxes: largest(boxes))
        out = {"keypoints": found["keypoints"], "boxes": found["boxes"]}
        if self._masks is not None:
            masked = self._masks(frames, lambda t, boxes: [best_match(box, boxes) for box in found["boxes"][t]])
            out |= {"mask_boxes": masked["boxes"], "masks": masked["masks"]}
        return out


def _of_one(outputs: Arrays, seen: Sequence[Sight] | None) -> Arrays:
    """Of outputs [T, N, ...] of the largest persons of each frame those of one: the own one, or the largest."""
    if not outputs:
        return {}
    boxes = outputs["boxes"]
    chosen = [0] * len(boxes) if seen is None else [which(*pair) for pair in zip(seen, boxes, strict=True)]
    return {
        name: np.stack([x[t, i] if i is not None else np.zeros_like(x[t, 0]) for t, i in enumerate(chosen)])
        for name, x in outputs.items()
    }


class Network:
    """One R-CNN of the model zoo: batches of frames in, some persons of each frame out, in pixels of the frame.

    How many people there are is for the network to find, so frames have tensors of different sizes: its heads look at
    each frame alone, lest what is found in one depend on another, and it waits for the card between its stages.
    """

    def __init__(
        self,
        d2: SimpleNamespace,
        model: str,
        weights: str | Path | None,
        makes: str,
        runner: Runner,
        size: int,
        score: float,
    ):
        self.model, self._makes, self._runner = model.removesuffix(".yaml"), makes, runner
        config = configured(d2, self.model, makes)
        config.MODEL.DEVICE = "cpu"
        config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = score
        config.MODEL.WEIGHTS = ""
        self.path = Path(weights) if weights is not None else download(d2, self.model)
        with without_warnings():
            network = d2.build_model(config)
        load(network, read_weights(self.path, self.model), self.path, self.model)
        self._network = runner.place(network, exact=[network.proposal_generator, network.roi_heads])
        self._format = config.INPUT.FORMAT
        self._resize, self._sides = d2.ResizeShortestEdge, (size, max(config.INPUT.MAX_SIZE_TEST, size))

    def __call__(
        self, frames: torch.Tensor, choose: Callable[[int, torch.Tensor], list[int | None]]
    ) -> dict[str, torch.Tensor]:
        """Of M persons in each of frames uint8 [n, H, W, 3] `boxes` float32 [n, M, 4], and `keypoints` [n, M, 17, 3] or
        soft `masks` [n, M, 28, 28] of the boxes; 0 where there is none.

        Args:
            choose: which of the people whose boxes [N, 4] were found in the frame of a number: M of them, or None.
        """
        import torch

        network = self._network
        found: dict[str, list[Any]] = {"boxes": [], self._makes: []}
        images = network.preprocess_image([{"image": image} for image in self.prepared(frames)])
        features = {name: part.float() for name, part in network.backbone(images.tensor).items()}
        with self._runner.exact():
            proposals, _ = network.proposal_generator(images, features, None)
            for t, proposed in enumerate(proposals):
                own = {name: part[t : t + 1] for name, part in features.items()}
                result = network.roi_heads(images, own, [proposed], None)[0][0]
                result = result[result.pred_classes == _PERSON]
                grow = [side / seen for side, seen in zip(frames.shape[1:3], result.image_size, strict=True)]
                boxes = _grown(result.pred_boxes.tensor.view(-1, 2, 2), grow).view(-1, 4)
                # detectron2 counts keypoints from the corner of the first pixel already.
                is_pose = self._makes == "keypoints"
                made = _grown(result.pred_keypoints, grow) if is_pose else result.pred_masks[:, 0]
                chosen = choose(t, boxes)
                for name, rows in (("boxes", boxes), (self._makes, made)):
                    none = rows.new_zeros(rows.shape[1:])
                    found[name].append(torch.stack([rows[i] if i is not None else none for i in chosen]))
        return {name: torch.stack(rows) for name, rows in found.items()}

    def prepared(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames uint8 [n, H, W, 3], RGB, at the size and in the colours of the network, float32 [n, 3, h, w]."""
        import torch

        images = (frames if self._format == "RGB" else frames.flip(3)).permute(0, 3, 1, 2).float()
        size = self._resize.get_output_shape(*frames.shape[1:3], *self._sides)
        images = torch.nn.functional.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return images.round()  # as Pillow does, with which detectron2 resizes


def _grown(points: torch.Tensor, grow: Sequence[float]) -> torch.Tensor:
    """Points [..., (x, y, ...)] with x and y times the factors of height and width."""
    import torch

    parts = [points[..., :1] * grow[1], points[..., 1:2] * grow[0], points[..., 2:]]
    return torch.cat(parts, -1)


def largest(boxes: torch.Tensor, most: int = _MOST) -> list[int | None]:
    """Which of boxes [N, 4] are the largest, and None for what is missing to `most`.

    A clip is a crop round its person, so others in it are smaller.
    """
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = areas.argsort(descending=True, stable=True)[:most].tolist()
    return [*order, *[None] * (most - len(order))]


def best_match(box: torch.Tensor, boxes: torch.Tensor) -> int | None:
    """Which of boxes [N, 4] overlaps a box best, None if none does so by 0.3 of their union."""
    import torch

    if not len(boxes):
        return None
    low, high = torch.maximum(box[:2], boxes[:, :2]), torch.minimum(box[2:], boxes[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - common
    overlap, best = (common / union.clamp(min=1e-9)).max(0)
    return int(best) if float(overlap) >= _SAME else None


def library() -> SimpleNamespace:
    """What is used of detectron2; `ImportError` if it is not installed."""
    names = ("model_zoo", "config", "modeling", "layers.mask_ops", "data.transforms", "utils.file_io")
    try:
        with pillow_before_10(), without_warnings():
            detectron2 = importlib.import_module("detectron2")
            with stand_ins(["detectron2._C"], _ADVICE):
                parts = [importlib.import_module(f"detectron2.{name}") for name in names]
    except ImportError as error:
        raise ImportError(f"{error}; docker/detectron2.sh installs what it takes") from error
    zoo, config, modeling, layers, transforms, files = parts
    return SimpleNamespace(
        zoo=zoo,
        get_cfg=config.get_cfg,
        build_model=modeling.build_model,
        paste=layers.paste_masks_in_image,
        ResizeShortestEdge=transforms.ResizeShortestEdge,
        files=files.PathManager,
        version=detectron2.__version__,
    )


@contextmanager
def pillow_before_10() -> Iterator[None]:
    """With a name that detectron2 0.6 asks for as it is imported, and that Pillow dropped in version 10."""
    Image: Any = importlib.import_module("PIL.Image")
    alias = not hasattr(Image, "LINEAR")
    if alias:
        Image.LINEAR = Image.BILINEAR
    try:
        yield
    finally:
        if alias:
            del Image.LINEAR


def configured(d2: SimpleNamespace, model: str, makes: str) -> Any:
    """The config of a network of the zoo, which must make ``keypoints`` or ``masks``."""
    folder = Path(d2.zoo.__file__).parent / "configs"
    known = {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.glob("COCO-*/*.yaml"))}
    group = KEYPOINTS if makes == "keypoints" else MASKS
    fitting = [name for name in known if name.startswith(group.partition("/")[0]) and "/Base" not in name]
    config = d2.get_cfg()
    if model in known:
        config.merge_from_file(str(known[model]))
    if not (config.MODEL.KEYPOINT_ON if makes == "keypoints" else config.MODEL.MASK_ON):
        what = "gives no " + makes if model in known else "is not in the model zoo"
        raise DetectorError(f"detectron2: {model!r} {what}; take one of {', '.join(fitting)}")
    return config


def download(d2: SimpleNamespace, model: str) -> Path:
    """The zoo's own weights of a network in detectron2's cache, fetched if they are not there."""
    try:
        url = d2.zoo.get_checkpoint_url(f"{model}.yaml")
        return Path(d2.files.get_local_path(url))
    except (OSError, RuntimeError, AssertionError) as error:
        raise DetectorError(
            f"detectron2: the weights of {model} cannot be fetched ({error}); fetch them where there is a network "
            "and give them as weights=FILE, those of the masks as mask_weights=FILE"
        ) from error


_MULTIARRAY = importlib.import_module("numpy._core.multiarray")


class _ArraysOnly(pickle.Unpickler):
    """Reads the zoo's ``.pkl`` files, which are dicts of NumPy arrays, and refuses anything else."""

    _ALLOWED = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("collections", "OrderedDict"): dict,
        **{
            (f"numpy.{core}.multiarray", name): getattr(_MULTIARRAY, name)
            for core in ("core", "_core")
            for name in ("_reconstruct", "scalar")
        },
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encoded
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return self._ALLOWED[module, name]


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    # Pickles of Python 2 arrays bring their bytes as text.
    return text.encode("latin1")


def read_weights(path: Path, model: str) -> dict[str, torch.Tensor]:
    """The tensors by name of a ``.pkl`` of the zoo or a ``.pth`` of a training; nothing in the file is run."""
    import torch

    expected = f"a checkpoint of {model}"
    if path.suffix != ".pkl":
        content = read_checkpoint(path, "detectron2", expected)
    elif not path.is_file():
        raise DetectorError(f"detectron2: there is no weights file {path}; give {expected}")
    else:
        try:
            content = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        # Bytes that are no pickle fail in whatever way they lead to.
        except Exception as error:
            raise DetectorError(f"detectron2: {path} is no file of arrays ({error}); give {expected}") from error
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(v, (np.ndarray, torch.Tensor)) for v in state.values()):
        raise DetectorError(f"detectron2: {path} holds no arrays by name under 'model'; give {expected}")
    return {str(key): torch.as_tensor(value) for key, value in state.items()}


def load(network: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path, model: str) -> None:
    """Give a network all its tensors; `DetectorError` if one is missing, too many or of another shape."""
    state = {key: value for key, value in state.items() if not any(made in key for made in _MADE)}
    wanted = {k: tuple(t.shape) for k, t in network.state_dict().items() if not any(made in k for made in _MADE)}
    if said := misfits({key: tuple(value.shape) for key, value in state.items()}, wanted):
        raise DetectorError(
            f"detectron2: the tensors of {path} do not fit {model}: {said}; give a checkpoint of {model}"
        )
    network.load_state_dict(state, strict=False)
