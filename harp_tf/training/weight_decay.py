"""What the decoupled weight decay of Keras' optimisers leaves alone."""

from collections.abc import Sequence

import keras


def exclude_from_weight_decay(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Spares more variables the decay than the user has; Keras' method of this name forgets what was said before.

    Args:
        optimizer: one that is not built yet.
        variables: what else to spare.
    """
    before: set = getattr(optimizer, "_exclude_from_weight_decay", set())
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    optimizer.exclude_from_weight_decay(var_list=variables, var_names=[pattern.pattern] if pattern else None)
    optimizer._exclude_from_weight_decay |= before
