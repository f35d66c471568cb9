"""Pure functions: masks, rates, costs, budget and schedules. Nothing here knows a layer."""

from harp_tf.compression.budget import project_counts, require_budget, weight_budget
from harp_tf.compression.cost import hw_loss, multiply_adds, overall_rate
from harp_tf.compression.masks import straight_through_mask, top_k_mask
from harp_tf.compression.rates import (
    MAX_LOGIT_GRADIENT,
    keep_count,
    logit_bounds,
    logit_for_count,
    logit_from_rate,
    rate_from_logit,
)
from harp_tf.compression.schedules import LearningRate, reaches_target, stepwise_gamma

__all__ = [
    "MAX_LOGIT_GRADIENT",
    "LearningRate",
    "hw_loss",
    "keep_count",
    "logit_bounds",
    "logit_for_count",
    "logit_from_rate",
    "multiply_adds",
    "overall_rate",
    "project_counts",
    "rate_from_logit",
    "reaches_target",
    "require_budget",
    "stepwise_gamma",
    "straight_through_mask",
    "top_k_mask",
    "weight_budget",
]
