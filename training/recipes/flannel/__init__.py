"""FLANNEL (Qiao et al. 2020): five learners over five folds, a neural weight module, focal loss, and its baselines."""
