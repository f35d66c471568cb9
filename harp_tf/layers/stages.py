"""Which variables of a layer train in which stage."""

import keras

_NORMALISATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.RMSNormalization,
)


def free_variables(layer: keras.layers.Layer, stage: str) -> None:
    """Unfreezes the variables of a layer for a stage and freezes the others; scores and rates are not told apart.

    Args:
        layer: any layer; if its `trainable` is False, all stays frozen.
        stage: "prune", in which only normalisation trains, or "joint" or "finetune", in which everything does.
    """
    # Keras has no public list of the variables that were created trainable (moving statistics were not).
    for part in layer._flatten_layers():
        trains = stage != "prune" or isinstance(part, _NORMALISATIONS)
        if layer.trainable and part.trainable:
            for variable in part._trainable_variables:
                variable.trainable = trains
