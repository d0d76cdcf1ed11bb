"""Training loop: plan, optimizer, prefetched batches, several processes, hyper-parameter search."""
