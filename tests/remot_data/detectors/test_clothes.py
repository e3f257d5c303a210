"""Scores of colours, which tell what covers a limb."""

from __future__ import annotations

import numpy as np

from remot_data.detectors._clothes import bins, score, score_table


def test_the_table_of_scores_is_the_score() -> None:
    rng = np.random.default_rng(0)
    references = np.float32([[120, 140, 150], [40, 120, 110]])
    levels = np.stack([rng.integers(0, 32, 500) * 8 + 3.5, *rng.integers(0, 48, (2, 500)) * 3 + 57], 1)
    exact = score(levels.astype(np.float32), references)
    assert np.allclose(score_table(references)[bins(levels[None].astype(np.uint8))[0]], exact, atol=1e-4)
    assert (score(levels.astype(np.float32), references[:0]) == -6).all()
