"""Drawn dancers, exact to the pixel: scenes, and stores of them."""

from remot_data.synthetic.scene import Cloth, Dancer, Scene, dance, layers
from remot_data.synthetic.shooting import in_coloured_light, subtitled, without_joints

__all__ = [
    "Cloth",
    "Dancer",
    "Scene",
    "dance",
    "in_coloured_light",
    "layers",
    "subtitled",
    "without_joints",
]
