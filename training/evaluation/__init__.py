"""Figures, intervals, tests, heat maps and pages of evaluated models."""
