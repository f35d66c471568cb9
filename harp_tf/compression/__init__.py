"""Pure functions: masks, rates, costs, budget and schedules. Nothing here knows a layer."""

from harp_tf.compression.budget import COST_UNITS, cost_budget, project_counts, require_budget
from harp_tf.compression.channels import keep_channels, logit_for_channels, nearest_multiple
from harp_tf.compression.cost import hw_loss, multiply_adds, overall_rate
from harp_tf.compression.masks import straight_through_mask, top_k_mask
from harp_tf.compression.rates import (
    MAX_LOGIT_GRADIENT,
    float32_at_most,
    keep_count,
    logit_bounds,
    logit_for_count,
    logit_from_rate,
    rate_from_logit,
)
from harp_tf.compression.schedules import LearningRate, reaches_target, stepwise_gamma

__all__ = [
    "COST_UNITS",
    "MAX_LOGIT_GRADIENT",
    "LearningRate",
    "cost_budget",
    "float32_at_most",
    "hw_loss",
    "keep_channels",
    "keep_count",
    "logit_bounds",
    "logit_for_channels",
    "logit_for_count",
    "logit_from_rate",
    "multiply_adds",
    "nearest_multiple",
    "overall_rate",
    "project_counts",
    "rate_from_logit",
    "reaches_target",
    "require_budget",
    "stepwise_gamma",
    "straight_through_mask",
    "top_k_mask",
]
