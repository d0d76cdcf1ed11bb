"""Datasets: collections and their readers, duplicates, splits, canvases, augmentation."""
