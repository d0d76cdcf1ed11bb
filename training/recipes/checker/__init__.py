"""The checker: a network that tells good frontal chest X-rays from what a bundle should refuse, its limits and its figures."""
