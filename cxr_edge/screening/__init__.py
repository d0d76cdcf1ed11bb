"""Screen images with a bundle and its engines, on the host or on a GPU."""
