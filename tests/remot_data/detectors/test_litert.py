from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from remot_data.detectors import _litert
from remot_data.detectors.base import DeviceError
from remot_data.detectors.blazepose import BlazePose, PersonDetector


def test_threads_that_load_networks_leave_the_standard_error_where_it_was():
    before = os.fstat(2)

    def load(number):
        time.sleep(0.001 * number)
        with _litert._quiet():
            time.sleep(0.005)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(load, range(6)))
    after = os.fstat(2)
    assert (after.st_dev, after.st_ino) == (before.st_dev, before.st_ino)


def test_what_others_say_while_a_network_is_loaded_is_passed_on_and_the_notice_is_not(capfd):
    network = PersonDetector().network
    with _litert._quiet():
        os.write(2, b"a warning of another thread\n")
        network._interpreter.allocate_tensors()  # says that there is a delegate
        os.write(2, b"half a line")
    assert capfd.readouterr().err == "a warning of another thread\nhalf a line"


def test_a_network_takes_memory_when_it_is_first_asked(monkeypatch):
    allocated = []
    allocate = Interpreter.allocate_tensors
    monkeypatch.setattr(Interpreter, "allocate_tensors", lambda self: (allocated.append(self), allocate(self)))
    found = BlazePose()
    assert found.fingerprint()["weights"] and allocated == []
    picture = np.zeros((64, 48, 3), np.uint8)
    assert found._detector(picture) == found._detector(picture) == []
    assert allocated == [found._detector.network._interpreter]


def test_a_file_that_cannot_be_allocated_is_named(monkeypatch):
    def refuse(interpreter):
        raise RuntimeError("failed to prepare")

    monkeypatch.setattr(Interpreter, "allocate_tensors", refuse)
    with pytest.raises(DeviceError, match=r"blazepose.*failed to prepare.*person detector of MediaPipe"):
        PersonDetector()(np.zeros((64, 48, 3), np.uint8))
