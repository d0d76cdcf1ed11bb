"""Training tasks: classification and segmentation, with batches, losses and validation scores."""
