"""The methods that learn masks: HARP, a variant of it, and its two halves by themselves."""

from harp_tf.baselines.base import Method

HARP = Method(mode="harp")
"""Scores and rates. Reference: Zhao & Wressnegger, Holistic Adversarially Robust Pruning, ICLR 2023."""

HARP_JOINT = Method(mode="harp", trains="joint")
"""Scores and rates, and the weights with them instead of frozen ones: not of the paper."""

HYDRA = Method(mode="score")
"""Scores under fixed rates.

Reference: Sehwag et al., HYDRA: Pruning Adversarially Robust Neural Networks, NeurIPS 2020.
"""

HYDRA_ERK = Method(mode="score", strategy="erk", other_rates=False)
"""HYDRA at Erdős–Rényi-kernel rates."""

HYDRA_LAMP = Method(mode="score", strategy="lamp", other_rates=False)
"""HYDRA at the rates of a global cut by LAMP score."""

RATE = Method(mode="rate")
"""Rates under the scores of the dense weights: magnitude pruning with learned rates."""
