"""cxr-edge: train, prune, compile and screen chest X-ray ensembles on small machines.

This package is the runtime: what a device needs to turn an X-ray file into an answer. It pulls in no deep-learning
framework; training lives in the repository's `training` folder and depends on this package, never the other way.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
