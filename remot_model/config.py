"""Every choice of the model and its training as a named field, and the presets.

Where the paper and its authors' preview code differ, the comment beside the field names both; the reasons are
in docs/architecture.md.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from remot_data.errors import RemotError
from remot_data.records import digest

STAGES = ("layout", "region", "whole")


class ConfigError(RemotError, ValueError):
    """A configuration that names an unknown field or preset, or asks for the impossible."""


@dataclass(frozen=True)
class StagePlan:
    """How one stage is trained. A step is one batch of windows; every chunk of it gives one update.

    The frames of a chunk are what fills memory: windows may be of any length, and the parts of a batch that
    `accumulate` makes go through one after the other.
    """

    steps: int
    batch: int  # windows of a step, all processes together
    length: int = 12  # frames of a window
    chunk: int = 6  # frames of an update; older frames are detached
    lr: float = 2e-4
    accumulate: int = 1  # parts of a batch whose gradients are summed before an update
    doublings: int = 0  # how often `length` doubles, after equal shares of the steps; vid2vid: every 5 epochs

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.length, self.chunk, self.accumulate) < 1 or self.doublings < 0:
            raise ConfigError(f"steps, batch, length, chunk and accumulate of a stage are at least 1: {self}")
        if self.batch % self.accumulate:
            raise ConfigError(f"a batch of {self.batch} windows has no {self.accumulate} equal parts (accumulate)")

    def phase(self, done: float) -> int:
        """How often the length has doubled when a share `done` of the training is over."""
        return min(int(done * (self.doublings + 1)), self.doublings)


@dataclass(frozen=True)
class Config:
    """The whole model and its training plan; `preset` makes the usual ones.

    `size` is height, width. Weights called ``lambda_*`` multiply a loss term of the same name.
    """

    name: str
    size: tuple[int, int] = (256, 192)

    # Networks (section 4 of the specification: the blocks of vid2vid).
    ngf: int = 64
    ndf: int = 32
    region_ndf: int = 64
    n_downsample: int = 3
    n_blocks: int = 9  # residual blocks of an encoder and a decoder together
    decoder_blocks: int = 4
    num_d: int = 2
    d_layers: int = 3
    norm: str = "instance"  # released: BatchNorm that is never put in eval(), which is this at batch 1

    # What REMOT chooses.
    layout_classes: int = 11  # paper: 6; released: 11, merged to 6 for the later stages
    use_gam: bool = True
    use_tam: bool = True
    use_wcn: bool = True
    tam_softmax: bool = True  # the paper names no softmax, its code has it
    tau: float = 1.0  # temperature of the TAM
    mask_frames: int = 3  # paper: 1; released: 3
    # Whether the Region GAN sees each region's surroundings instead of the frame (docs/model.md): true, false, "sizes"
    # (crops of a few fixed sizes), or "auto": true on a CPU, false on a GPU.
    crop_regions: bool | str = True
    crop_parts: bool = False  # parts of a region that lie apart, as arms and legs, get a crop each; other norms
    clip_regions: bool = False  # multiply a generated region by its mask before the sum of equation (11)
    refine_coarse: bool = False  # the WCN's foreground is added to the coarse one; not in the paper, for short runs
    background_hole: bool = True  # the background is black where the layout is not background
    first_frame_raw: bool = True  # released: the first frame is blended with a warped black frame
    predicted_layouts: float = 0.0  # share of the batches of the last stage that see generated layouts

    # Discriminators beside the plain conditional one.
    temporal_scales: int = 2  # triplets with spacing 1, 3, ...
    foreground_d: bool = True
    face_d: bool = True

    # Loss weights.
    perceptual: str = "auto"  # see `remot_model.training.features`; "vgg19:FILE" names the weights
    lambda_gan: float = 1.0
    lambda_feat: float = 10.0
    lambda_nll: float = 10.0
    lambda_rec: float = 10.0
    lambda_per: float = 10.0
    lambda_gram: float = 0.0  # equation (7); absent from the released training code
    lambda_flow: float = 5.0  # vid2vid: 10
    lambda_warp: float = 10.0
    lambda_flow_warp: float = 10.0
    lambda_weight: float = 1.0
    lambda_face: float = 2.0
    lambda_image: float = 0.0  # L1 on the composed image; not in the paper, useful for short runs

    # Training.
    source_frame: str = "frontal"  # paper: a frontal frame of the same video; "random": any frame of the clip
    # Whether losses and metrics leave out what lies outside the picture of a clip's source: true, false, or "auto",
    # true where the policies of all stores have an `outside`.
    valid: bool | str = False
    # Whether losses leave out the pixels whose labels the parser is unsure of: true, false, or "auto", true where the
    # parsing layers of all stores tell it.
    sure: bool | str = False
    max_step: int = 4  # frames of a window lie 1 to so many apart, drawn for each window; released: 4
    betas: tuple[float, float] = (0.5, 0.999)
    constant_share: float = 0.5  # share of the steps before the linear decay to 0 (5 + 5 epochs)
    lr_epochs: int = 10  # equal parts of the training after which the rate changes; 0: it changes every step
    clip_grad: float = 10.0
    ema: float = 0.999  # decay of the averaged generator, which is what a run saves for inference; 0: no average
    # "bfloat16", "float16": autocast in training, the latter with scaled losses; "auto": bfloat16 where the GPU has it.
    precision: str = "float32"
    channels_last: bool | str = False  # memory layout of the weights; for tensor cores with bfloat16
    compile: bool | str = False  # torch.compile of a frame's step and the judges; needs a C++ compiler on a CPU
    # Norms, activations and borders in kernels of our own, for channels_last on a GPU, and the gradients of large
    # convolutions once for all frames of a chunk.
    gpu_kernels: bool | str = False
    cuda_graphs: bool | str = False  # a step's kernels are recorded once and replayed; on one GPU
    cpu_kernels: bool = True  # Winograd's convolutions and norms in place, for inference on a CPU
    flip: float = 0.5
    colour_jitter: bool = True
    layout: StagePlan = field(default=StagePlan(900_000, 4))
    region: StagePlan = field(default=StagePlan(900_000, 1))
    whole: StagePlan = field(default=StagePlan(900_000, 1))

    def __post_init__(self) -> None:
        unit = 2**self.n_downsample
        if any(s % unit or s // unit < 2 for s in self.size):
            raise ConfigError(f"size {self.size} needs multiples of {unit} of at least {2 * unit} (n_downsample)")
        if self.layout_classes not in (6, 11):
            raise ConfigError(f"layout_classes is 6 or 11, not {self.layout_classes}")
        if self.norm not in ("instance", "layer"):
            raise ConfigError(f"norm is 'instance' or 'layer', not {self.norm!r}")
        if self.precision not in ("auto", "float32", "bfloat16", "float16"):
            raise ConfigError(f"precision is 'auto', 'float32', 'bfloat16' or 'float16', not {self.precision!r}")
        for name in AUTO_FIELDS[1:]:
            known = (False, True, "auto", *_MORE_VALUES.get(name, ()))
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {_listed(known)}, not {getattr(self, name)!r}")
        for name in _BY_STORE:
            if getattr(self, name) not in (False, True, "auto"):
                raise ConfigError(f"{name} is {_listed((False, True, 'auto'))}, not {getattr(self, name)!r}")
        if self.crop_regions == "sizes" and self.crop_parts:
            raise ConfigError("crop_parts makes crops of any size; it does not go with crop_regions='sizes'")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema is a decay of at least 0 and below 1, not {self.ema}")
        if self.max_step < 1:
            raise ConfigError(f"max_step is at least 1, not {self.max_step}")
        if self.source_frame not in ("frontal", "random"):
            raise ConfigError(f"source_frame is 'frontal' or 'random', not {self.source_frame!r}")
        if self.tau <= 0:
            raise ConfigError(f"tau is a temperature above 0, not {self.tau}")
        if self.mask_frames not in (1, 3):
            raise ConfigError(f"mask_frames is 1 or 3, not {self.mask_frames}")
        if not 0 <= self.decoder_blocks <= self.n_blocks:
            raise ConfigError(f"decoder_blocks {self.decoder_blocks} is more than n_blocks {self.n_blocks}")

    @property
    def layout_schema(self) -> str:
        """Label set of the Layout GAN."""
        return f"remot{self.layout_classes}"

    @property
    def flow_scale(self) -> float:
        """Pixels of flow at which the flow head's output is 1: 20 at a height of 256."""
        return 20.0 * self.size[0] / 256

    @property
    def face_size(self) -> int:
        """Side of the square face crop in pixels: 32 at a height of 256, at least 16."""
        return max(16, 32 * self.size[0] // 256)

    @property
    def fuses(self) -> bool:
        """Whether the kernels of `remot_model.networks.gpu` are used, on a GPU."""
        return bool(self.gpu_kernels) and self.gpu_kernels != "auto" and self.channels_last is True

    @property
    def perceptual_on(self) -> bool:
        """Whether any loss looks at perceptual features."""
        return self.lambda_per > 0 or self.lambda_gram > 0

    @property
    def features(self) -> int:
        """Channels between encoder and decoder."""
        return self.ngf * 2**self.n_downsample

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages this configuration trains."""
        return STAGES if self.use_wcn else STAGES[:2]

    def plan(self, stage: str) -> StagePlan:
        """How `stage` is trained; `ConfigError` for an unknown stage."""
        if stage not in STAGES:
            raise ConfigError(f"no stage is called {stage!r}; there are {', '.join(STAGES)}")
        return getattr(self, stage)

    def learning_rate(self, stage: str, done: float) -> float:
        """Rate when a share `done` of the training is over: constant up to `constant_share`, then linear to 0.

        With `lr_epochs` it changes only between those parts of the training. As in the release: of 10 epochs, the
        first 6 run at the full rate, the last 4 at 0.8, 0.6, 0.4 and 0.2 of it (section 9 of the specification).
        """
        if self.lr_epochs:
            # A hair more than done: 0.6 of ten epochs is the start of the seventh, whatever the rounding.
            done = min(int(done * self.lr_epochs + 1e-9), self.lr_epochs - 1) / self.lr_epochs
        decay = max(1 - self.constant_share, 1e-6)
        return self.plan(stage).lr * min(1.0, max(0.0, (1 - done) / decay))

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` gives an equal configuration."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Config:
        """The configuration that `to_json` wrote; `ConfigError` for a field that does not exist."""
        unknown = set(value) - {f.name for f in dataclasses.fields(cls)}
        if unknown:
            raise ConfigError(f"unknown configuration fields: {', '.join(sorted(unknown))}")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        fields |= {stage: StagePlan(**fields[stage]) for stage in STAGES if stage in fields}
        return cls(**fields)

    def with_plan(self, stage: str, plan: StagePlan) -> Config:
        """The configuration with another plan of a stage."""
        changed: dict[str, Any] = {stage: plan}
        return dataclasses.replace(self, **changed)

    @property
    def open_fields(self) -> tuple[str, ...]:
        """The fields that are still ``auto``; `remot_model.devices.resolved` gives them values."""
        return tuple(name for name in AUTO_FIELDS if getattr(self, name) == "auto")

    def digest(self, stage: str | None = None) -> str:
        """sha256 of the fields that decide the shape and meaning of the networks, not of the training plan.

        With `stage`, of those that its network depends on: runs that differ elsewhere may share it. `ConfigError` while
        one of them is ``auto``.
        """
        if self.crop_regions == "auto":
            raise ConfigError("crop_regions is still 'auto'; remot_model.devices.resolved(config, device) settles it")
        plain = self.to_json()
        return digest({name: plain[name] for name in _NETWORK_FIELDS if name not in _MEANINGLESS.get(stage, ())})


# Fields that take "auto": what is best depends on the device that a stage is trained on.
AUTO_FIELDS = ("precision", "crop_regions", "channels_last", "gpu_kernels", "compile", "cuda_graphs")
_MORE_VALUES = {"crop_regions": ("sizes",)}


def _listed(known: tuple[Any, ...]) -> str:
    return ", ".join(json.dumps(value) for value in known[:-1]) + f" or {json.dumps(known[-1])}"


_NETWORK_FIELDS = (
    "size ngf n_downsample n_blocks decoder_blocks norm layout_classes use_gam use_tam use_wcn tam_softmax tau "
    "mask_frames crop_regions crop_parts clip_regions refine_coarse background_hole first_frame_raw"
).split()
# Those of them that mean nothing to the network of a stage.
_OF_THE_WCN_ONLY = "use_tam use_wcn tam_softmax tau refine_coarse background_hole".split()
_MEANINGLESS: dict[str | None, tuple[str, ...]] = {
    "layout": (*_OF_THE_WCN_ONLY, "use_gam", "mask_frames", "crop_regions", "crop_parts", "clip_regions"),
    "region": (*_OF_THE_WCN_ONLY, "layout_classes", "first_frame_raw"),
}

_BY_STORE = ("valid", "sure")  # fields whose "auto" the stores settle
_ALL_AUTO = dict.fromkeys((*AUTO_FIELDS, *_BY_STORE), "auto")

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _ALL_AUTO,
    "small": {
        **_ALL_AUTO,
        "size": (128, 96),
        "ngf": 32,
        "layout": StagePlan(60_000, 4, lr=3e-4),
        "region": StagePlan(60_000, 2, lr=3e-4),
        "whole": StagePlan(60_000, 2, lr=3e-4),
    },
    "tiny": {
        "size": (64, 48),
        "ngf": 16,
        "ndf": 16,
        "region_ndf": 16,
        "n_downsample": 2,
        "n_blocks": 4,
        "decoder_blocks": 2,
        "crop_regions": False,
        "cuda_graphs": "auto",
        "valid": "auto",
        "sure": "auto",
        "clip_regions": True,
        "refine_coarse": True,
        "flip": 0.0,
        # A few hundred steps go to the layout itself first: its overlap with the real one decides the rest.
        "lambda_nll": 100.0,
        "lambda_per": 0.0,  # with the stand-in a short run drew checkered textures; see docs/model.md
        "lambda_image": 10.0,
        "max_step": 1,  # motion that a few hundred steps can learn
        "lr_epochs": 0,
        "layout": StagePlan(600, 2, length=4, lr=2e-3),
        "region": StagePlan(160, 2, length=4, lr=1e-3),
        "whole": StagePlan(150, 2, length=4, lr=1e-3),
    },
}

# Variants of a preset, joined by colons: the rows of the paper's ablation tables 3 and 4, and what it leaves open.
VARIANTS: dict[str, dict[str, Any]] = {
    "no-tam": {"use_tam": False},
    "no-wcn": {"use_wcn": False},
    "no-gam": {"use_wcn": False, "use_gam": False},
    "no-temporal": {"temporal_scales": 0},
    "crops": {"crop_regions": True},
    "crop-parts": {"crop_regions": True, "crop_parts": True},
    "crop-sizes": {"crop_regions": "sizes"},
    "no-crops": {"crop_regions": False},
    "layout6": {"layout_classes": 6},
    "layout11": {"layout_classes": 11},
}
PORTRAIT = "portrait"
_OF_THE_WCN = ("use_tam", "tau")  # these mean nothing without it


def preset(name: str) -> Config:
    """The preset ``paper`` (256x192), ``small`` (128x96) or ``tiny`` (64x48; minutes on two CPU cores).

    Variants follow after colons. Rows of the paper's ablation tables: ``paper:no-tam``, ``paper:no-wcn`` (Region GAN
    with GAM), ``paper:no-gam`` (Region GAN alone). Others: ``no-temporal`` (no temporal discriminators), ``layout6`` or
    ``layout11``, ``tau=0.1`` for a temperature, and ``crops``, ``crop-parts``, ``crop-sizes`` or ``no-crops``: whether
    the Region GAN sees crops, crops of parts, crops of a few fixed sizes, or whole frames. They combine:
    ``tiny:layout6:tau=0.1``. Of any, ``portrait`` is as high, and 9:16 like the videos of phones.

    Raises:
        ConfigError: for an unknown name, two variants that set one field, or one that has no meaning next to another.
    """
    size, *variants = name.split(":")
    if size not in PRESETS:
        raise ConfigError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}, with {_known_variants()}")
    fields: dict[str, Any] = {}
    if is_portrait := PORTRAIT in variants:
        variants.remove(PORTRAIT)
    for variant in variants:
        found = _variant(variant, name)
        if twice := fields.keys() & found.keys():
            raise ConfigError(f"the preset {name!r} sets {', '.join(sorted(twice))} twice; choose one variant of it")
        fields |= found
    if not fields.get("use_wcn", True) and (idle := [f for f in _OF_THE_WCN if f in fields]):
        raise ConfigError(f"the preset {name!r} has no composition network, so {', '.join(idle)} changes nothing")
    config = Config(name=name, **{**PRESETS[size], **fields})
    return fitted(config, (16, 9)) if is_portrait else config


def fitted(config: Config, size: tuple[int, int]) -> Config:
    """The configuration at its own height, and of the shape of frames of the height and width `size`."""
    unit, height = 2**config.n_downsample, config.size[0]
    width = max(2 * unit, round(height * size[1] / size[0] / unit) * unit)
    return dataclasses.replace(config, size=(height, width))


def _variant(variant: str, name: str) -> dict[str, Any]:
    if variant in VARIANTS:
        return VARIANTS[variant]
    key, _, value = variant.partition("=")
    try:
        if key == "tau":
            return {"tau": float(value)}
    except ValueError:
        pass
    raise ConfigError(f"the preset {name!r} has no variant {variant!r}; there are {_known_variants()}")


def _known_variants() -> str:
    return f"{', '.join(':' + v for v in (*VARIANTS, PORTRAIT))} and :tau=NUMBER"


def temporal_spacings(config: Config) -> tuple[int, ...]:
    """Frame spacings of the temporal discriminators: 1, 3, 9, ..."""
    return tuple(3**s for s in range(config.temporal_scales))
