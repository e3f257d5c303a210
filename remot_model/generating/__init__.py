"""From a source person and poses to frames: what training, evaluation and transfer share.

`alignment` and `cropping` say where a person and its regions are, `rollout` runs the networks over time, `graphs`
records kernels, and `inference` lends the generators of a run.
"""
