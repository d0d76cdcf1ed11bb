"""Images and their labels: collections, duplicates, splits, canvases, augmentation."""
