"""Figures that the evidence log promises, alone here, so that `--help` shows them without loading the rest."""

__all__ = ["SIX_MONTHS_DAYS", "TOLERANCE"]

SIX_MONTHS_DAYS = 184  # of the longest six months in a row
TOLERANCE = 1e-3  # absolute, of probabilities and of the checker's scores on another machine, as of known answers
