from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from remot_model.transferring.background import find_background  # noqa: E402
from remot_model.transferring.driving import find_driving  # noqa: E402
from remot_model.transferring.eyes import load_eyes  # noqa: E402
from remot_model.transferring.request import TransferError  # noqa: E402
from remot_model.transferring.source import find_source  # noqa: E402
from tests.remot_model.red_people import CONFIG, write_image  # noqa: E402

pytestmark = pytest.mark.usefixtures("seers")


def test_backgrounds(run, files, tmp_path):
    eyes = load_eyes(run, "blazepose", "pose-guided")
    who = find_source(files.source, eyes)
    drive = find_driving(files.driving, CONFIG.size, None, None)
    blue = write_image(tmp_path / "blue.png", np.full((50, 90, 3), (10, 20, 200), np.uint8))

    def found(choice):
        return find_background(choice, who, drive, eyes, CONFIG.size)

    for choice in ("source", "driving"):
        assert found(choice).shape == (32, 24, 3)
        assert np.abs(found(choice).astype(int) - 90).max() < 12, choice
    assert not found("black").any()
    assert (found(str(blue)) == (10, 20, 200)).all()
    with pytest.raises(TransferError, match="nor one of source, driving, black"):
        found("somewhere")
