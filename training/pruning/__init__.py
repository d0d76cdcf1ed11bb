"""Iterative channel pruning: APoZ, coupled layers, cost, the loop of pruning and retraining."""
