"""Recipes: settings of HARP that belong together, under one name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

BEST: Mapping[str, Any] = MappingProxyType(
    {"strategy": "lamp", "rate_gradient": "marginal", "finetune_learning_rate": 0.1}
)
"""What won over the paper's settings on two data sets, see docs/recipe.md."""

PAPER: Mapping[str, Any] = MappingProxyType(
    {"strategy": "uniform", "rate_gradient": "sum", "finetune_learning_rate": 0.01}
)
"""The paper's values of the same settings; these are the defaults for HARP."""

RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType({"paper": PAPER, "best": BEST})
