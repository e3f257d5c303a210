"""Drawn dancers, exact to the pixel: scenes, and stores of them."""

from remot_data.synthetic.scene import Cloth, Dancer, Scene, dance, layers

__all__ = [
    "Cloth",
    "Dancer",
    "Scene",
    "dance",
    "layers",
]
