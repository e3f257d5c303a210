from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

from remot_data.detectors import _litert


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
