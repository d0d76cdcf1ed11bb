"""Pipelines of the papers: configurations, run folders and stages."""
