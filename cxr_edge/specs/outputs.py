"""Kinds of network outputs: a closed set of names for what the values of a network's first output mean.

A manifest or `build-engine --output` declares one; `compiler.output_kinds` compares it with the values and derives
probabilities and decisions from them. Only the names are here, since reading a manifest needs no arithmetic.
"""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["COMBINED_KINDS", "OUTPUT_CHOICES", "OUTPUT_KINDS", "OutputChoice", "OutputKind"]

OutputKind = Literal[
    "softmax-logits",  # (N, labels), 2 or more labels that exclude each other: softmax gives the probabilities
    "logit",  # (N, 1): sigmoid gives the probability of the positive label
    "multi-label-logits",  # (N, labels), independent findings: sigmoid of each
    "softmax-probabilities",  # (N, labels), after the softmax: each row has the sum 1
    "multi-label-probabilities",  # (N, labels), after the sigmoids
    "mask",  # (N, 1, S, S), probability of lung
]
OUTPUT_KINDS: tuple[OutputKind, ...] = get_args(OutputKind)

OutputChoice = Literal["auto"] | OutputKind  # auto: recognised from the network and its values
OUTPUT_CHOICES: tuple[OutputChoice, ...] = ("auto", *OUTPUT_KINDS)

# What a combination takes, by its activation.
COMBINED_KINDS: dict[str, OutputKind] = {"softmax": "softmax-logits", "sigmoid": "multi-label-logits"}
