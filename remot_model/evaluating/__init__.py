"""Measuring a run on held-out windows: `evaluate` makes the frames, `metrics` compares them, `report` shows them."""
