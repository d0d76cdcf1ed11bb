"""Calibration on a site's own cases: a bundle and cases with known labels in, a new bundle version out."""
