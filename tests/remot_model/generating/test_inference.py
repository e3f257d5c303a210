"""What inference does to the generators of a run changes no result: converted once, in groups, recorded."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager, nullcontext

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from remot_model import checkpoint, devices, networks  # noqa: E402
from remot_model.config import ConfigError  # noqa: E402
from remot_model.generating import inference, rollout  # noqa: E402
from remot_model.generating.graphs import Lanes  # noqa: E402
from remot_model.generating.inference import Networks, Runner  # noqa: E402
from tests.remot_model.red_people import CONFIG  # noqa: E402

HAS_GPU = torch.cuda.is_available()
CPU = torch.device("cpu")


def nets_of(config, device=CPU):
    torch.manual_seed(0)
    return {s: networks.generator(s, config).to(device).eval().requires_grad_(False) for s in config.stages}


def clip_of(config, frames, device=CPU, clips=1):
    """Source, its labels, poses and background: random, with a person in the middle."""
    make = torch.Generator().manual_seed(1)
    h, w = config.size
    image = lambda *shape: torch.rand(*shape, 3, h, w, generator=make) * 2 - 1  # noqa: E731
    labels = torch.zeros(clips, h, w, dtype=torch.int64)
    labels[:, h // 4 : -h // 4, w // 4 : -w // 4] = torch.randint(1, 11, (1,), generator=make)
    given = image(clips), labels, image(clips, frames), image(clips)
    return tuple(x.to(device) for x in given)


def tensors(made):
    """Every tensor of dataclasses, dicts and tuples, by where it is."""
    if torch.is_tensor(made):
        return {"": made}
    if dataclasses.is_dataclass(made):
        made = vars(made)
    pairs = made.items() if isinstance(made, dict) else enumerate(made)
    return {f"{k}.{name}": x for k, value in pairs if value is not None for name, x in tensors(value).items()}


def same(a, b):
    a, b = tensors(a), tensors(b)
    assert a.keys() == b.keys()
    for name, x in a.items():
        assert x.dtype == b[name].dtype and x.equal(b[name]), name


def in_pieces(run, clip, lengths, **options):
    """Copies of the results of pieces of a clip, since a GPU writes over them, and the states behind the last."""
    source, source_labels, poses, background = clip
    states, made, first = None, [], 0
    for length in lengths:
        part = poses[:, first : first + length]
        done, states = run(source, source_labels, part, background, states=states, **options)
        made.append({name: x.clone() for name, x in tensors(done).items()})
        first += length
    joined = {name: torch.cat([m[name] for m in made], 1) for name in made[0]}
    return joined, {name: x.clone() for name, x in tensors(states).items()}


@pytest.mark.parametrize("norm", ["instance", "layer"])
@pytest.mark.parametrize("crops", [False, True])
def test_weights_converted_once_give_what_autocast_gives(monkeypatch, norm, crops):
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: True)
    config = dataclasses.replace(CONFIG, precision="bfloat16", norm=norm, crop_regions=crops)
    nets, clip = nets_of(config), clip_of(config, 3)
    plain = in_pieces(lambda *a, **o: rollout.transfer(nets, config, *a, **o), clip, [2, 1])
    ours = Networks(nets, config)
    kinds = {x.dtype for net in ours.generators.values() for x in net.parameters()}
    assert kinds == {torch.bfloat16, torch.float32}  # convolutions, and norms
    assert all(x.dtype == torch.float32 for net in nets.values() for x in net.parameters())
    with ours.lent() as runner:
        same(in_pieces(runner, clip, [2, 1]), plain)
    wide = in_pieces(Runner(Networks(nets, CONFIG), False), clip, [2, 1])
    assert not wide[0]["images."].equal(plain[0]["images."])


def test_nothing_is_copied_for_float32():
    nets = nets_of(CONFIG)
    ours = Networks(nets, CONFIG)
    assert all(ours.generators[stage] is net for stage, net in nets.items())
    assert ours.plain == "cpu has no CUDA graphs" or ours.plain == "cuda_graphs is off"


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 2))
def test_neither_pieces_nor_groups_change_a_frame(lengths, together, clips):
    nets = Networks(nets_of(CONFIG), CONFIG)
    clip = clip_of(CONFIG, sum(lengths), clips=clips)
    whole = in_pieces(Runner(nets, False), clip, [sum(lengths)])
    runner = Runner(nets, False)
    runner._together = together
    same(in_pieces(runner, clip, lengths), whole)


class Replayed:
    """Stands in for a CUDA graph: computed anew, from the tensors it was recorded with, into the same memory."""

    made = []

    def __init__(self, function, inputs, beside=None, stream=None):
        self.function, self.inputs = function, {name: x.clone() for name, x in inputs.items()}
        self.outputs, self.beside = function(self.inputs), beside
        self.made.append(self)

    def __call__(self, inputs):
        assert inputs.keys() == self.inputs.keys()
        for name, x in inputs.items():
            self.inputs[name].copy_(x)
        new = tensors(self.function(self.inputs))
        for name, x in tensors(self.outputs).items():
            x.copy_(new[name])
        return self.outputs


class Logged:
    """Stands in for streams: notes which stage is at work."""

    def __init__(self, steps, device):
        self.steps, self.log = steps, []

    @contextmanager
    def opened(self):
        yield lambda step: nullcontext(self.log.append(step))


@pytest.mark.slow
@pytest.mark.parametrize("with_labels", [False, True])
@pytest.mark.parametrize("with_placed", [False, True])
def test_recorded_pieces_give_the_same_and_take_their_own_states(monkeypatch, with_labels, with_placed):
    monkeypatch.setattr(devices, "why_plain", lambda *args: "")
    monkeypatch.setattr(inference, "Recorded", Replayed)
    monkeypatch.setattr(inference, "Lanes", Logged)
    monkeypatch.setattr(Replayed, "made", [])
    nets, clip = nets_of(CONFIG), clip_of(CONFIG, 12)
    more = {}
    if with_labels:
        more["labels"] = clip[1][:, None].expand(-1, 2, -1, -1)
    if with_placed:
        more["placed"] = torch.full((1, 2), 1.25), torch.full((1, 2, 2), float("nan"))
    plain = in_pieces(lambda *a, **o: rollout.transfer(nets, CONFIG, *a, **o), clip, [2] * 6, **more)
    ours = Networks(nets, CONFIG)
    with ours.lent() as runner:
        runner._together = 1
        for _ in range(3):  # the first, plain, the second, which records, and the third
            same(in_pieces(runner, clip, [2] * 6, **more), plain)
    assert len(Replayed.made) == 2  # of a piece that begins a clip, and of one that goes on
    assert Replayed.made[1].beside is Replayed.made[0]
    assert runner._lanes.log[:6] == ["layout", "region", "whole"] * 2  # of two frames
    with ours.lent() as again:
        assert again is runner


@pytest.mark.parametrize("wrong", ["with lanes", "always"])
def test_a_graph_that_gives_other_bytes_is_not_used_and_that_is_said(monkeypatch, caplog, wrong):
    class Wrong(Replayed):
        def __call__(self, inputs):
            done, states = super().__call__(inputs)
            if wrong == "always" or runner._lanes:
                done.images.add_(1e-3)
            return done, states

    monkeypatch.setattr(devices, "why_plain", lambda *args: "")
    monkeypatch.setattr(inference, "Recorded", Wrong)
    monkeypatch.setattr(inference, "Lanes", Logged)
    nets, clip = nets_of(CONFIG), clip_of(CONFIG, 6)
    plain = in_pieces(lambda *a, **o: rollout.transfer(nets, CONFIG, *a, **o), clip, [2] * 3)
    ours = Networks(nets, CONFIG)
    with ours.lent() as runner:
        for _ in range(3):
            same(in_pieces(runner, clip, [2] * 3), plain)
        assert not runner._lanes and bool(runner._recorded) == (wrong != "always")
    assert ("bytes" in ours.plain) == (wrong == "always")
    assert ("without CUDA graphs" in caplog.text) == (wrong == "always") and "one by one" in caplog.text


class Stream:
    """Stands in for a stream of a card: what it is given has to come after what it waited for."""

    now = None

    def __init__(self, device=None):
        self.before = set()

    def wait_stream(self, other):
        self.before |= other.before

    def work(self, name, ran):
        ran[name] = set(self.before)
        self.before = self.before | {name}


def test_stages_overlap_and_each_comes_after_what_it_needs(monkeypatch):
    @contextmanager
    def at(stream):
        before, Stream.now = Stream.now, stream
        yield
        Stream.now = before

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", at)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream.now)
    main, ran = Stream(), {}
    lanes = Lanes(("layout", "region", "whole"), CPU)
    for piece in range(2):
        with at(main):
            main.work(f"inputs {piece}", ran)
            with lanes.opened() as lane:
                for group in range(3):
                    for stage in ("layout", "region", "whole"):
                        with lane(stage):
                            Stream.now.work((piece, stage, group), ran)
            main.work(f"outputs {piece}", ran)
    # The last two groups of a stage, the stage before at this group, and nothing behind it.
    assert ran[0, "layout", 2] == {"inputs 0", (0, "layout", 0), (0, "layout", 1)}
    layouts, regions = ({(0, stage, group) for group in range(2)} for stage in ("layout", "region"))
    assert ran[0, "region", 1] == {"inputs 0", *layouts, (0, "region", 0)}
    assert ran[0, "whole", 1] == {"inputs 0", *layouts, *regions, (0, "whole", 0)}
    assert len(ran["outputs 0"]) == 1 + 9 and ran[1, "layout", 0] > ran["outputs 0"]


def test_two_clips_at_once_get_two_runners():
    nets = Networks(nets_of(CONFIG), CONFIG)
    with nets.lent() as one, nets.lent() as other:
        assert one is not other
    with pytest.raises(KeyboardInterrupt), nets.lent():
        raise KeyboardInterrupt
    assert len(nets._idle) == 2


def test_a_run_can_be_computed_otherwise_but_not_changed(tmp_path):
    config = dataclasses.replace(CONFIG, precision="float32", crop_regions=True)
    checkpoint.write_info(tmp_path, {"config": config.to_json(), "schemas": {"pose": "body25"}})
    for stage, net in nets_of(config).items():
        checkpoint.save_generator(tmp_path, stage, net, config, {"pose": "body25"})
    given = {"precision": "bfloat16", "channels_last": True, "cuda_graphs": "auto", "gpu_kernels": "auto"}
    run = checkpoint.load_run(tmp_path, "cpu", given)
    changed = {"precision": "bfloat16", "channels_last": True, "cuda_graphs": False, "gpu_kernels": False}
    assert run.config == dataclasses.replace(config, **changed)
    weights = [x for net in run.generators.values() for x in net.parameters() if x.ndim == 4 and min(x.shape) > 1]
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in weights)
    assert run.networks is run.networks and checkpoint.load_run(tmp_path).config == config
    with pytest.raises(ConfigError, match="crop_regions, size of a trained run cannot be changed; it can be precision"):
        checkpoint.load_run(tmp_path, "cpu", {"crop_regions": False, "size": (64, 48)})


# What only a card can show


on_gpu = pytest.mark.skipif(not HAS_GPU, reason="there is no GPU that torch can use")


def on_card(**fields):
    size = {"size": (64, 48), "ngf": 16, "crop_regions": False, "cpu_kernels": False}
    auto = dict.fromkeys(("precision", "channels_last", "gpu_kernels", "cuda_graphs"), "auto")
    config = devices.resolved(dataclasses.replace(CONFIG, **{**size, **auto, **fields}), "cuda")
    return config, nets_of(config, torch.device("cuda"))


@on_gpu
@pytest.mark.parametrize("lanes", [False, True])
def test_a_graph_gives_the_bytes_of_its_kernels_one_by_one(lanes):
    config, nets = on_card()
    plain = Networks(nets, dataclasses.replace(config, cuda_graphs=False))
    clip = clip_of(config, 6 * 16 + 5, torch.device("cuda"))
    lengths = [16] * 6 + [5]
    with plain.lent() as runner:
        expected = in_pieces(runner, clip, lengths)
    ours = Networks(nets, config)
    assert ours.plain == ""
    with ours.lent() as runner:
        if not lanes:
            runner._lanes = None
        for _ in range(3):
            same(in_pieces(runner, clip, lengths), expected)
        assert bool(runner._lanes) == lanes  # a graph whose stages overlap gave the same bytes
        assert len(runner._recorded) == 3
    resumed = Runner(ours, True)
    with torch.cuda.stream(resumed.stream):
        half = in_pieces(resumed, clip, lengths[:3])
        same(half[0], {name: x[:, :48] for name, x in expected[0].items()})


@on_gpu
def test_clips_at_once_give_what_each_gives_alone():
    from concurrent.futures import ThreadPoolExecutor

    config, nets = on_card()
    ours, device = Networks(nets, config), torch.device("cuda")

    def make(number):
        with ours.lent() as runner:
            clip = clip_of(config, 16 * 8, device)
            clip = (clip[0].roll(number, -1), *clip[1:])
            made = in_pieces(runner, clip, [16] * 8)
            runner.stream.synchronize()
            return made

    alone = [make(i) for i in range(4)]
    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            for one, other in zip(pool.map(make, range(4)), alone, strict=True):
                same(one, other)


@on_gpu
def test_crops_are_not_recorded_and_it_is_said():
    config, nets = on_card(crop_regions=True)
    assert Networks(nets, config).plain == "crops follow the person, so shapes change"
