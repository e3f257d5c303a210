"""Running tasks, here or on workers. The only import of dask."""

from remot_data.engine.engine import Engine, EngineError, Progress, Spoilt, cpus, open_engine

__all__ = [
    "Engine",
    "EngineError",
    "Progress",
    "Spoilt",
    "open_engine",
    "cpus",
]
