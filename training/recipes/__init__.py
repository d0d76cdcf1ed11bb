"""The papers' pipelines: configuration, run folders and stages."""
