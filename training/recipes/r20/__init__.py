"""Pipeline of R20 (Rajaraman et al. 2020, iteratively pruned ensembles): `python -m training.reproduce r20`."""

__all__: list[str] = []
