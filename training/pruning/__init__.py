"""Iterative pruning of channels: APoZ, coupled layers, cost, the loop of pruning and retraining."""
