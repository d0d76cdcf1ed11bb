"""From folders of chest X-rays to a bundle: the recipe is training/README.md, the steps are the modules, one each.

Training imports `cxr_edge` for everything that must be identical on the device; never the other way round.
"""

__all__: list[str] = []
