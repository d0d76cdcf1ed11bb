"""Two versions of a bundle: what changed in words, and which decisions change, on the same images.

`comparison` screens with both; `description`, `protocol` and `impact` are the parts of the change plan that `inspect --against`
prints (`plan`).
"""

DEFAULT_MAX_CHANGED = 0.05  # share of files whose verdict may change when a new version is installed
