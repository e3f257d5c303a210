"""The page of `remot app` in a real browser, without a screen. Skipped where gradio, selenium or Chromium is absent."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("gradio", reason='the page needs gradio: pip install "remot[app]"')

from remot_model import app  # noqa: E402
from remot_model.transferring.driving import Candidate  # noqa: E402
from remot_model.transferring.request import TransferError  # noqa: E402
from tests.remot_model.red_people import picture, write_image, write_video  # noqa: E402

pytestmark = pytest.mark.usefixtures("seers")


@pytest.fixture
def browser(tmp_path):
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="the browser test needs selenium: pip install selenium"
    )
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("the browser test needs Chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-sync"
    flags += " disable-component-update window-size=1400,1500"
    for flag in (*flags.split(), f"user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as found:
        yield found


@pytest.fixture
def served(run, monkeypatch, tmp_path):
    """The page of an untrained run at its address, with one pair of samples."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(app, "load_run", lambda path, place: run)
    source = write_image(tmp_path / "sample.png", picture())
    driving = write_video(tmp_path / "dance.mp4", [picture(40 + 2 * t) for t in range(9)])
    monkeypatch.setattr(app, "samples", lambda folder: [[str(source), str(driving)]])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    blocks, address = app.serve("run", port=port, device="cpu", block=False)
    yield address
    blocks.close()


def photograph(browser, name: str) -> None:
    """A screenshot, where REMOT_SCREENSHOTS names a folder for it."""
    if folder := os.environ.get("REMOT_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.mark.slow
def test_image_and_video_in_result_and_stages_out(browser, served):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, 60)
    browser.get(served)
    button = wait.until(lambda b: b.find_element(By.ID, "transfer"))
    photograph(browser, "empty")
    # Nothing given: a sentence instead of a result.
    button.click()
    wait.until(lambda b: "Give a source image and a driving video first" in b.page_source)
    photograph(browser, "nothing-given")
    # The samples fill both inputs.
    browser.find_element(By.CSS_SELECTOR, ".gallery-item, tbody tr, [class*=gallery] button").click()
    wait.until(lambda b: len(b.find_elements(By.CSS_SELECTOR, "video")) >= 1 and "sample.png" in b.page_source)
    photograph(browser, "sample")
    browser.find_element(By.ID, "transfer").click()
    wait.until(lambda b: "9 frames at 12.5 a second" in b.find_element(By.ID, "notes").text)
    wait.until(lambda b: len(b.find_elements(By.CSS_SELECTOR, ".stage video")) == 9)
    size = "return [...document.querySelectorAll('.stage video')].map(v => [v.videoWidth, v.videoHeight, v.duration])"
    wait.until(lambda b: all(width and duration for width, _, duration in b.execute_script(size)))
    shown = browser.execute_script(size)
    photograph(browser, "done")
    assert shown[0] == [24 * 8, 256, pytest.approx(9 / 12.5, abs=0.05)]
    assert [960, 256] in [found[:2] for found in shown]  # the five regions
    assert {urlhost(url) for url in requested(browser)} == {"127.0.0.1"}


@pytest.mark.slow
def test_a_video_that_brings_its_decoder_down_is_a_message_and_the_page_goes_on(served, files, decoder):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(served, verbose=False)
    given = handle_file(str(files.source)), handle_file(str(files.driving)), "black", "paper"
    for how, words in (("hangs", "no sign of life for 1 s.*timeout"), ("dies", "ended by SIGABRT.*a bad block")):
        decoder("frames", how)
        with pytest.raises(AppError, match=f"driving.mp4: .*{words}"):
            client.predict(*given, api_name="/make")
    decoder("nothing", "")
    assert "21 frames at 12.5 a second" in client.predict(*given, api_name="/make")[1]


@pytest.mark.slow
def test_who_drives_is_chosen_by_her_picture_where_there_are_several(browser, served, monkeypatch):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    two = [Candidate(n, picture(40 * n)) for n in (1, 2)]
    monkeypatch.setattr(app, "candidates", lambda path: two)
    asked = []
    real = app.transfer
    monkeypatch.setattr(
        app,
        "transfer",
        lambda *a, **options: asked.append(options["person"]) or real(*a, **{**options, "person": None}),
    )
    wait = WebDriverWait(browser, 60)
    browser.get(served)
    wait.until(lambda b: b.find_element(By.ID, "transfer"))
    browser.find_element(By.CSS_SELECTOR, ".gallery-item, tbody tr, [class*=gallery] button").click()
    pictures = wait.until(
        lambda b: (found := b.find_elements(By.CSS_SELECTOR, "#who button img")) and len(found) == 2 and found
    )
    photograph(browser, "several")
    pictures[1].click()
    time.sleep(1)
    browser.find_element(By.ID, "transfer").click()
    wait.until(lambda b: "9 frames at 12.5 a second" in b.find_element(By.ID, "notes").text)
    assert asked == [2]


def requested(browser) -> list[str]:
    """The addresses that the page asked for over the network."""
    import json

    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    urls = (m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent")
    return [url for url in urls if url.startswith(("http", "ws"))]


def urlhost(url: str) -> str:
    from urllib.parse import urlsplit

    return urlsplit(url).hostname or ""


def test_samples_are_pictures_and_videos_of_the_assets(tmp_path, monkeypatch, caplog):
    clip = write_video(tmp_path / "clip.mp4", [picture()] * 2)
    monkeypatch.setattr(app.assets, "fetch", lambda name: clip)
    pairs = app.samples(tmp_path)
    assert len(pairs) == 2 and all(Path(path).is_file() for pair in pairs for path in pair)
    assert pairs[0][1] == str(clip) and pairs[0][0].endswith(".png")

    def absent(name):
        raise app.assets.AssetError("no index")

    monkeypatch.setattr(app.assets, "fetch", absent)
    assert app.samples(tmp_path) == [] and "no sample inputs: no index" in caplog.text


def test_a_run_without_a_stage_or_a_taken_port_is_refused(run, monkeypatch):
    import dataclasses

    part = dataclasses.replace(run, generators={"layout": run.generators["layout"]})
    monkeypatch.setattr(app, "load_run", lambda path, place: part)
    with pytest.raises(TransferError, match="no trained region and whole stage"):
        app.serve("run", device="cpu")
    monkeypatch.setattr(app, "load_run", lambda path, place: run)
    monkeypatch.setattr(app, "samples", lambda folder: [])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(TransferError, match="cannot be served.*--port"):
            app.serve("run", port=taken.getsockname()[1], device="cpu", block=False)
