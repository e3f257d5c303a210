from __future__ import annotations

import base64
import dataclasses
import json
import os
import signal
import socket
import subprocess
import threading

import cv2
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from remot_data import media, persons, synthetic
from remot_data.assets import fetch
from remot_data.detectors.base import DetectorError, DeviceError, file_sha256
from remot_data.ingest import people, scan
from remot_data.ingest.duplicates import duplicates, same_content, signature
from remot_data.ingest.judging import judge
from remot_data.ingest.people import Moments, Watched
from remot_data.ingest.policy import Policy
from remot_data.media import sandbox
from remot_data.media.identity import content_sha256, stamp
from remot_data.persons import Person
from remot_data.records import Clip, Video

RATE = 30
FOUND = Video("v-1", "/v.mp4", "0" * 64, (640, 480), 0, 0.0, float(RATE), (1, RATE), "h264")
MAIN = (200.0, 100.0, 320.0, 400.0)


def watched(looks, frames=120, shots=None, every=6, cells=None):
    """A `Watched` whose look number i is at frame i * every and holds the boxes (with sharpness) `looks(i)`."""
    at = list(range(0, frames, every))
    people_of = [[Person(t, box, 0.9, sharp) for box, sharp in looks(i)] for i, t in enumerate(at)]
    if cells is None:
        cells = np.random.default_rng(0).integers(0, 255, (len(at), 32, 32)).astype(np.uint8)
    probe = media.Probe((640, 480), (640, 480), 0, "h264", (1, RATE), frames, RATE, frames / RATE, False, 0)
    moments = np.zeros((8, 12, 12), np.uint8)
    return Watched(probe, np.arange(frames), shots or [(0, frames)], at, people_of, cells, moments)


def codes(seen, policy=Policy()):  # noqa: B008 - frozen
    """Of a store that does not follow persons."""
    judged = judge(FOUND, seen, dataclasses.replace(policy, persons=None))
    clips, rejects, counts = judged.clips, judged.rejects, judged.frames
    assert judged.persons == {}
    assert counts["decoded"] == len(seen.pts) == counts["kept"] + counts["refused"] + counts["resampled"]
    assert counts["kept"] == sum(c.frames for c in clips)
    assert counts["refused"] == sum(r.frames for r in rejects)
    assert all(r.what == "shot" and r.frames for r in rejects)
    return [r.code for r in rejects], len(clips), rejects


def alone(i):
    return [(MAIN, 0.5)]


def test_a_person_alone_is_kept():
    assert codes(watched(alone))[:2] == ([], 1)


# The rules


@pytest.mark.parametrize(
    ("box", "refused"),
    [
        ((310.0, 120.0, 400.0, 380.0), True),  # beside the main person, in the crop
        ((310.0, 300.0, 340.0, 400.0), False),  # a child far behind: less than half as tall
        ((560.0, 100.0, 640.0, 400.0), False),  # outside the crop
        ((370.0, 100.0, 520.0, 400.0), False),  # reaches into the crop with less than half
    ],
)
def test_others_count_who_are_tall_enough_and_in_the_crop(box, refused):
    found, clips, rejects = codes(watched(lambda i: [(MAIN, 0.5), (box, 0.5)]))
    assert found == (["several-persons"] if refused else [])
    if refused:
        assert "100%" in rejects[0].detail and "30%" in rejects[0].detail and rejects[0].frames == 120


def test_others_who_pass_by_are_allowed():
    other = ((310.0, 120.0, 400.0, 380.0), 0.5)
    passes = watched(lambda i: [(MAIN, 0.5)] + [other] * (i < 6))  # 6 of 20 looks
    stays = watched(lambda i: [(MAIN, 0.5)] + [other] * (i < 7))
    assert codes(passes)[0] == []
    assert codes(stays)[0] == ["several-persons"]
    assert codes(stays, Policy(max_others=0.35))[0] == []
    # A ghost in one look of a short clip is no crowd.
    assert codes(watched(lambda i: [(MAIN, 0.5)] + [other] * (i == 0), frames=18))[0] == []


def test_a_person_found_too_seldom_is_occluded():
    seldom = watched(lambda i: alone(i) if i % 3 == 0 else [], frames=114)  # 7 of 19 looks
    found, clips, rejects = codes(seldom)
    assert (found, clips) == (["occluded"], 0)
    assert "7 of 19" in rejects[0].detail and "50%" in rejects[0].detail
    assert codes(watched(lambda i: alone(i) if i % 2 == 0 else [], frames=114))[:2] == ([], 1)
    assert codes(seldom, Policy(min_seen=0.3))[:2] == ([], 1)


def test_a_person_seen_for_moments_only_is_occluded_and_one_who_comes_late_is_not():
    assert codes(watched(lambda i: alone(i) if i % 6 == 0 else []))[0] == ["occluded"]
    late = codes(watched(lambda i: alone(i) if i >= 14 else []))
    assert late[:2] == (["no-person"], 1)


def test_one_part_of_a_long_shot_can_be_refused():
    seen = watched(lambda i: [(MAIN, 0.5 if i < 20 else 0.001)], frames=240)
    found, clips, rejects = codes(seen, Policy(max_frames=120))
    assert (found, clips, rejects[0].frames) == (["blurred"], 1, 120)
    assert rejects[0].detail.startswith("frames 120 to 239")


def test_parts_shorter_than_the_time_between_two_looks_need_no_look_of_their_own():
    seen = watched(lambda i: [(MAIN, 0.5)], frames=120, every=60)
    assert codes(seen, Policy(looks=0.5, max_frames=10, min_frames=4))[:2] == ([], 12)


def test_the_median_sharpness_decides():
    assert codes(watched(lambda i: [(MAIN, 0.001 if i % 3 else 0.5)]))[0] == ["blurred"]
    assert codes(watched(lambda i: [(MAIN, 0.5 if i % 3 else 0.001)]))[0] == []


def test_a_still_is_static_and_one_moving_spot_is_not():
    still = np.random.default_rng(1).integers(0, 250, (1, 32, 32)).astype(np.uint8)
    noise = np.random.default_rng(2).integers(0, 4, (20, 32, 32)).astype(np.uint8)
    assert codes(watched(alone, cells=still + noise))[0] == ["static"]
    moving = np.repeat(still, 20, 0)
    moving[7, 16, 12] += 5
    assert codes(watched(alone, cells=moving))[0] == []
    elsewhere = np.repeat(still, 20, 0)
    elsewhere[:, :, 30] = np.arange(20)[:, None]  # a ticker outside the crop
    assert codes(watched(alone, cells=elsewhere))[0] == ["static"]
    # Half a second in which nobody moves is a moment.
    assert codes(watched(alone, frames=18, cells=still.repeat(3, 0)))[0] == []


def test_bounds_of_zero_and_one_switch_the_rules_off():
    still = np.zeros((20, 32, 32), np.uint8)
    crowd = watched(lambda i: [(MAIN, 0.0), ((210.0, 100.0, 330.0, 400.0), 0.0)], cells=still)
    off = Policy(max_others=1.0, min_seen=0.0, min_sharpness=0.0, min_motion=0.0)
    assert codes(crowd, off)[:2] == ([], 1)


def test_the_sums_come_out_at_another_frame_rate():
    seen = watched(lambda i: alone(i) if i < 12 else [], frames=120)
    found, clips, rejects = codes(seen, Policy(fps=10))
    # Frames 0, 3, ... 66 of 0, 3, ... 117: the person is last seen in frame 66.
    assert (found, clips, rejects[0].frames) == (["no-person"], 1, 40 - 23)


def test_a_policy_knows_two_kinds_of_duplicates():
    with pytest.raises(ValueError, match="'names'"):
        Policy(duplicates="names")


# Measures


def test_sharpness_depends_on_blur_and_not_on_size_or_light():
    large = next(f for _, f in media.read(fetch("sample-cam02"), size=(1280, 720)))
    grey = cv2.cvtColor(large, cv2.COLOR_RGB2GRAY)
    box = people.find(large)[0].box
    tall = persons.height(box)
    values = [persons.sharpness(cv2.GaussianBlur(grey, (0, 0), s * tall), box) for s in (0.005, 0.015, 0.03)]
    sharp = persons.sharpness(grey, box)
    assert sharp > 0.3 > values[0] > 0.05 > Policy().min_sharpness > values[1] > values[2]
    assert persons.sharpness((grey * 0.4 + 20).astype(np.uint8), box) == pytest.approx(sharp, rel=0.1)
    half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert persons.sharpness(half, tuple(v / 2 for v in box)) == pytest.approx(sharp, rel=0.2)
    assert persons.sharpness(grey, (-50.0, 0.0, 1.0, 100.0)) == float("inf")


# Real videos


def ffmpeg(out, *arguments):
    if not out.exists():
        command = [media.ffmpeg_binary(), "-v", "error", "-y", *map(str, arguments), "-an", str(out)]
        subprocess.run(command, check=True)
    return out


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scan")


@pytest.fixture(scope="session")
def small(folder):
    """sample-cam02 at 288 x 512 and 30 frames a second."""
    return ffmpeg(folder / "small.mp4", "-i", fetch("sample-cam02"), "-vf", "scale=288:512,fps=30", "-crf", 16)


def look(path, **policy):
    *signs, (last, _) = scan.looking({"path": str(path)}, Policy(**policy).to_json())
    assert all(set(m) == {"frames"} for m, _ in signs)
    line = last["line"]
    frames = line["frames"]
    assert frames["decoded"] == frames["kept"] + frames["refused"] + frames["resampled"]
    return line


def reasons(line):
    return {r["code"] for r in line["rejects"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sample-cam01", "sample-cam02", "sample-cam03", "sample-cam04"])
def test_the_sample_clips_are_kept_whole(name):
    line = look(fetch(name))
    assert line["rejects"] == [] and line["frames"]["kept"] == 100


@pytest.mark.parametrize("finder", ["ssd", None])
def test_networks_that_cannot_run_here_are_no_fault_of_the_video(finder, small, ssd, monkeypatch):
    """Their memory is taken before any picture's, and what is wrong with that is not a reason to refuse a video."""

    def refuse(interpreter):
        raise RuntimeError("no memory")

    monkeypatch.setattr(people, "_opened", threading.local())
    monkeypatch.setattr(people, "_finder", people._Finders)
    monkeypatch.setattr(Interpreter, "allocate_tensors", refuse)
    with pytest.raises(DeviceError, match="cannot be run here .no memory.; free memory"):
        list(scan.looking({"path": str(small)}, Policy().to_json(), finder))
    with pytest.raises(DeviceError):
        list(people.watching(str(small), rate=5, finder=finder, read=lambda *a, **k: pytest.fail("a frame was read")))


@pytest.mark.slow
def test_blurred_static_and_several_persons_are_found_in_real_videos(folder, small):
    # Of this clip the person is found in every look from sigma 9 to 14, so that no CPU's rounding decides.
    blurred = ffmpeg(folder / "blur.mp4", "-i", fetch("sample-cam03"), "-vf", "scale=720:-2,fps=30,gblur=sigma=11")
    line = look(blurred)
    assert reasons(line) == {"blurred"} and line["clips"] == []
    picture = ffmpeg(folder / "picture.png", "-i", small, "-frames:v", 1)
    loop = ["-loop", 1, "-framerate", 30, "-t", 1.5, "-i", picture, "-pix_fmt", "yuv420p", "-crf", 35]
    assert reasons(look(ffmpeg(folder / "still.mp4", *loop))) == {"static"}
    graph = "[0:v]fps=15,crop=500:1000:250:300,scale=250:500,split[a][b];[b]hflip[c];[a][c]hstack"
    pair = ffmpeg(folder / "pair.mp4", "-i", fetch("sample-cam02"), "-filter_complex", graph)
    assert reasons(look(pair, persons=None)) == {"several-persons"}
    both = look(pair)  # side by side
    assert [clip["id"][-7:] for clip in both["clips"]] == ["-000-00", "-00-t01"] and not both["rejects"]


@pytest.mark.slow
def test_a_person_behind_a_box_in_most_frames_is_occluded(folder):
    # The person is small in the picture, so that hiding is no cut; shown in 6 of 24 frames, a look every 6.
    hide = "drawbox=x=240:y=120:w=160:h=260:color=gray:t=fill:enable='gte(mod(n,24),6)'"
    graph = f"fps=30,scale=144:256,pad=640:480:250:120:color=gray,{hide}"
    hidden = ffmpeg(folder / "hidden.mp4", "-stream_loop", 1, "-i", fetch("sample-cam02"), "-vf", graph)
    line = look(hidden)
    assert reasons(line) == {"occluded"} and line["clips"] == []


@pytest.mark.slow
def test_drawn_dancers_are_kept(folder):
    for seed in range(3):
        path = folder / f"drawn{seed}.mp4"
        drawn(path, seed, seed)
        assert look(path)["rejects"] == []


def drawn(path, seed, dancer=0, frames=45):
    ground = synthetic.dance(synthetic.Dancer.random(0), 1, seed=0).background
    scene = synthetic.dance(synthetic.Dancer.random(dancer), frames, seed=seed, background=ground)
    with media.VideoWriter(path, 30, (256, 192)) as writer:
        for frame in scene.frames:
            writer.write(frame)


def test_a_picture_lower_than_a_person_has_to_be_is_too_small(small):
    with pytest.raises(media.VideoError, match="too-small.*288x512.*600"):
        look(small, min_height=600)


def test_a_failing_finder_is_a_detector_error_with_its_words(small, monkeypatch):
    def fails(*args, **kwargs):
        raise ZeroDivisionError("no anchors")

    monkeypatch.setattr(people, "find", fails)
    with pytest.raises(DetectorError, match="frame 0 .*ZeroDivisionError: no anchors"):
        look(small)


# Another finder


def test_another_finder_gives_the_persons_and_its_fingerprint_is_checked(red):
    spec, path = red
    policy = Policy(finder={"detector": "red", "weights": "WEIGHTS"}, persons="main")
    line = scan.scan({"path": str(path)}, policy.to_json(), finder=spec)
    (clip,) = line["clips"]
    x, _, wide, tall = clip["crop"]
    assert tall == pytest.approx(1.2 * 140, abs=8) and x < 60 and x + wide > 110
    assert "no-person" in reasons(scan.scan({"path": str(path)}, Policy().to_json()))
    with pytest.raises(DetectorError, match=r"another than the store is built with \(weights\)"):
        scan.scan({"path": str(path)}, Policy(finder={"detector": "red", "weights": "x"}).to_json(), finder=spec)


def test_tracks_of_the_finder_are_taken_as_they_are():
    here, far = (0.0, 0.0, 40.0, 100.0), (500.0, 0.0, 540.0, 100.0)
    looks = [[Person(0, here, 0.9, track=3), Person(0, far, 0.5)], [Person(1, far, 0.9, track=3)]]
    assert persons.tracks(looks) == [[looks[0][0], looks[1][0]], [looks[0][1]]]
    assert [p.frame for p in persons.main_track(looks)] == [0, 1]


def test_what_is_no_finder_is_named(tmp_path):
    (tmp_path / "none.py").write_text("class Nothing: pass")
    with pytest.raises(DetectorError, match="lacks the methods fingerprint and follow"):
        people.open_finder(f"{tmp_path / 'none.py'}:Nothing")
    with pytest.raises(DetectorError, match="no detector is called 'nobody'.*ultralytics"):
        people.open_finder("nobody")


def test_the_default_finder_leaves_the_policy_as_it_was():
    assert "finder" not in Policy().to_json()
    assert Policy.from_json(Policy().to_json()) == Policy()
    other = Policy(finder={"detector": "red"})
    assert Policy.from_json(json.loads(json.dumps(other.to_json()))) == other


# Duplicates


@pytest.fixture(scope="session")
def signed():
    known = {}

    def sign(path):
        if path not in known:
            seen = people.watch(path, rate=0.01)
            known[path] = signature(seen.moments, seen.probe.seconds, seen.probe.size)
        return known[path]

    return sign


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("crf35half.mp4", ["-vf", "scale=iw/2:ih/2", "-crf", 35]),
        ("tiny.mp4", ["-vf", "scale=-2:240", "-crf", 30]),
        ("remuxed.mkv", ["-c", "copy"]),
        ("vp8.webm", ["-c:v", "libvpx", "-b:v", "500k", "-deadline", "realtime"]),
        ("rate25.mp4", ["-r", 25]),
        ("rate24.mp4", ["-r", 24]),
        ("rate15.mp4", ["-r", 15]),
        ("rate60.mp4", ["-r", 60]),
    ],
)
def test_encoded_anew_it_is_the_same(folder, small, signed, name, options):
    assert same_content(signed(small), signed(ffmpeg(folder / name, "-i", small, *options)))


@pytest.mark.slow
def test_other_takes_parts_and_mirror_images_are_not_the_same(folder, small, signed):
    cam1 = fetch("sample-cam01")
    half = ["-vf", "scale=288:512,trim=start_frame={}:end_frame={},setpts=PTS-STARTPTS"]
    parts = [ffmpeg(folder / f"half{n}.mp4", "-i", cam1, half[0], half[1].format(50 * n, 50 * n + 50)) for n in (0, 1)]
    mirrored = ffmpeg(folder / "mirrored.mp4", "-i", small, "-vf", "hflip")
    cut = ffmpeg(folder / "cut.mp4", "-i", small, "-frames:v", 40)
    stretched = ffmpeg(folder / "stretched.mp4", "-i", small, "-vf", "scale=320:512,setsar=1")
    slower = ffmpeg(folder / "slower.mp4", "-i", small, "-vf", "setpts=1.2*PTS")
    assert not same_content(signed(parts[0]), signed(parts[1]))
    for other in (mirrored, cut, stretched, slower):
        assert not same_content(signed(small), signed(other))
    for seed in (1, 2):
        drawn(folder / f"take{seed}.mp4", seed)
    assert not same_content(signed(folder / "take1.mp4"), signed(folder / "take2.mp4"))


def test_moments_do_not_depend_on_how_often_a_picture_is_shown():
    def moments(rate):
        seen = Moments(5.0, 4.0)
        for t in np.arange(0, 4, 1 / rate):
            seen.see(5 + t, np.full((9, 16, 3), int(50 * t), np.uint8))
        return seen.pictures().astype(int)

    assert np.abs(moments(60) - moments(15)).max() <= 3
    assert moments(60)[:, 0, 0].tolist() == pytest.approx(50 * (np.arange(8) + 0.5) / 2, abs=2)


def test_moments_of_one_frame_are_that_frame():
    seen = Moments(0.0, 0.0)
    seen.see(0.0, np.full((9, 16, 3), 77, np.uint8))
    assert (seen.pictures() == 77).all()


def made_lines(moments, seconds, size=(1080, 1920), first=0):
    return [
        {
            "video": {"sha256": f"{first + i:064d}"},
            "clips": [{}],
            "signature": signature(np.asarray(m, np.uint8), s, size),
        }
        for i, (m, s) in enumerate(zip(moments, seconds, strict=True))
    ]


def test_duplicates_by_bytes_and_by_pictures():
    rng = np.random.default_rng(0)
    pictures = rng.integers(40, 200, (4, 8, 12, 12))
    lines = made_lines([*pictures, pictures[1] + 3, pictures[2]], [10, 10, 10, 10, 10.04, 10.5])
    lines.append({**lines[4]})  # the bytes of a repeat
    lines.append({"video": None, "clips": [], "signature": ""})
    lines += [{**line, "clips": [], "video": {"sha256": "f" * 64}} for line in lines[:1]]  # no clips: it has its reason
    assert duplicates(lines) == {4: (1, "pictures"), 6: (1, "pictures")}
    assert duplicates(lines, "bytes") == {6: (4, "bytes")}
    assert duplicates([]) == {} and duplicates(lines[7:8]) == {}


def test_a_video_without_clips_does_not_stand_for_a_better_copy():
    one = np.random.default_rng(0).integers(40, 200, (8, 12, 12))
    lines = made_lines([one, one + 2], [10, 10])
    lines[0]["clips"] = []
    assert duplicates(lines) == {}


def test_the_fast_search_finds_what_comparing_all_pairs_finds():
    rng = np.random.default_rng(3)
    stages = rng.integers(40, 200, (3, 1, 12, 12))
    moments = np.clip(stages[rng.integers(0, 3, 120)] + rng.integers(-40, 40, (120, 8, 12, 12)), 0, 255)
    moments[80:] = np.clip(moments[rng.integers(0, 80, 40)] + rng.integers(-9, 10, (40, 8, 12, 12)), 0, 255)
    seconds = rng.choice([4.0, 4.06, 10.0, 10.15], 120)
    lines = made_lines(moments, seconds)
    text = [line["signature"] for line in lines]
    first = {}
    for i in range(120):
        match = [j for j in range(i) if same_content(text[i], text[j])]
        if match:
            first[i] = first.get(match[0], match[0])
    assert 8 < len(first) < 40
    assert {i: j for i, (j, _) in duplicates(lines).items()} == first


def test_little_motion_allows_little_difference():
    """Two dark takes differ little in grey levels; that does not make them the same."""
    rng = np.random.default_rng(0)
    dark = 20 + rng.integers(0, 12, (2, 8, 12, 12))
    assert not same_content(*(line["signature"] for line in made_lines(dark, [10, 10])))
    a = made_lines([dark[0], dark[0] + rng.integers(0, 3, dark[0].shape)], [10, 10])
    assert same_content(a[0]["signature"], a[1]["signature"])


def test_a_signature_is_small_and_a_foreign_one_is_refused():
    text = made_lines(np.zeros((1, 8, 12, 12)), [3])[0]["signature"]
    assert len(text) <= 2048
    with pytest.raises(ValueError, match="another version"):
        same_content(text, base64.b64encode(b"short").decode())


# Files and folders


def test_the_stamp_and_digest_of_a_folder_of_pictures(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(b"picture%d" % n)
    before = stamp(str(tmp_path)), content_sha256(str(tmp_path))
    (tmp_path / "notes.txt").write_text("about them")
    assert (stamp(str(tmp_path)), content_sha256(str(tmp_path))) == before
    (tmp_path / "1.png").write_bytes(b"picture9")
    after = stamp(str(tmp_path)), content_sha256(str(tmp_path))
    assert after[0] != before[0] and after[1] != before[1]
    os.rename(tmp_path / "2.png", tmp_path / "7.png")
    assert content_sha256(str(tmp_path)) != after[1]
    file = tmp_path / "0.png"
    assert content_sha256(str(file)) == file_sha256(file)
    assert stamp(str(tmp_path / "none")) == "absent"


def test_a_folder_of_pictures_is_looked_through(tmp_path, small):
    ffmpeg(tmp_path / "%03d.png", "-i", small, "-frames:v", 20)
    folder = {"path": str(tmp_path), "fps": 15.0}
    *_, (last, _) = scan.looking(folder, Policy().to_json())
    line = last["line"]
    assert line["rejects"] == [] and line["frames"]["kept"] == 20
    assert line["video"]["fps"] == 15 and Clip.from_json(line["clips"][0]).fps == 15


# The task


def test_the_task_gives_plain_values_with_the_stamp(small):
    line = scan.scan({"path": str(small)}, Policy().to_json(), None, "as-seen")
    assert line["stamp"] == "as-seen"
    made = json.loads(json.dumps(look(small)))
    assert {k: line[k] for k in made} == made
    of_persons = {"shots", "tracks", "looks", "own", "person_frames"}
    plain = {"input", "stamp", "video", "clips", "rejects", "frames", "signature", "seconds"}
    assert set(line) == plain | of_persons
    before = scan.scan({"path": str(small)}, Policy(persons=None).to_json(), None, "as-seen")
    assert set(before) == plain and before["clips"] == line["clips"]


def test_a_file_that_only_the_driver_sees_is_no_silent_reject(tmp_path):
    item = {"path": str(tmp_path / "gone.mp4")}
    with pytest.raises(RuntimeError, match="this worker does not see .*gone.mp4.*same file system"):
        scan.scan(item, Policy().to_json(), None, "123-456")
    assert reasons(scan.scan(item, Policy().to_json(), None, "absent")) == {"unavailable"}


def test_pipes_and_sockets_are_never_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "call", lambda *a: pytest.fail("it was given to the child"))
    os.mkfifo(tmp_path / "pipe.mp4")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.mp4")
        for name in ("pipe.mp4", "socket.mp4"):
            line = scan.scan({"path": str(tmp_path / name)}, Policy().to_json())
            assert reasons(line) == {"unsafe-path"} and line["video"] is None
    assert reasons(scan.scan({"path": "/dev/zero"}, Policy().to_json())) == {"unsafe-path"}


def test_an_input_that_was_refused_before_is_that_reject(tmp_path):
    item = {"path": str(tmp_path / "x"), "refused": "unsafe-path", "detail": "it leads out"}
    (reject,) = scan.scan(item, Policy().to_json(), None, "absent")["rejects"]
    assert (reject["what"], reject["code"], reject["detail"]) == ("video", "unsafe-path", "it leads out")


def raising(error):
    """A `sandbox.call` that ends with this error."""

    def call(function, arguments, limits):
        yield {"frames": 0}, b""
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (sandbox.ChildError("timeout", "it stood still"), "timeout"),
        (sandbox.ChildError("crashed", "SIGSEGV", signal.SIGSEGV), "crashed"),
        (sandbox.ChildError("out-of-memory", "too much"), "out-of-memory"),
        (sandbox.ChildError("crashed", "killed from outside", signal.SIGKILL), "crashed"),
        (media.VideoError("truncated", "it ends early"), "truncated"),
        (DetectorError("it broke"), "detector-failed"),
    ],
)
def test_every_death_becomes_a_reject_of_the_video(small, monkeypatch, error, code):
    monkeypatch.setattr(sandbox, "call", raising(error))
    line = scan.scan({"path": str(small)}, Policy().to_json())
    (reject,) = line["rejects"]
    assert (reject["what"], reject["code"]) == ("video", code) and reject["detail"]
    assert line["frames"] == {"decoded": 0, "kept": 0, "refused": 0, "resampled": 0}


def test_a_limit_of_time_ends_it(small):
    line = scan.scan({"path": str(small)}, Policy().to_json(), sandbox.Limits(total=0.05).to_json())
    assert reasons(line) == {"timeout"}


def test_a_machine_without_a_finder_stops_the_build(small, monkeypatch):
    def none(finder, expected):
        raise DetectorError("no weights here")

    monkeypatch.setattr(people, "prepare", none)
    with pytest.raises(DetectorError, match="no weights"):
        scan.scan({"path": str(small)}, Policy().to_json())
