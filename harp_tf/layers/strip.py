"""The verb `strip`: from a pruned model back to a plain Keras one."""

import keras
import numpy as np

from harp_tf.layers.budget import PROJECTED, project_to_budget
from harp_tf.layers.model import pruning_spec
from harp_tf.layers.producers import silence_unread_channels
from harp_tf.layers.pruned import PrunedLayer
from harp_tf.layers.rebuild import copy_variables, rebuild, require_built, walk


def strip(model: keras.Model) -> keras.Model:
    """Turns a pruned model into a plain Keras model whose removed weights are exactly 0.

    Of channels that were removed, what makes them is 0 as well: no layer reads them.

    Args:
        model: a model made by `prune`, which is left as it is, but for its rates: if they exceed the budget they
            are projected onto it first.

    Returns:
        A plain Keras model of the same names and logits, which loads where harp_tf is not installed.

    Raises:
        HarpError: if the model has no pruned layers, or its budget cannot be met.
    """
    require_built(model)
    pruning_spec(model)
    if project_to_budget(model):
        print(PROJECTED)

    def replacement(path: str, layer: keras.layers.Layer) -> tuple[type, dict] | None:
        return (layer.base_class, layer.base_config()) if isinstance(layer, PrunedLayer) else None

    plain = rebuild(model, replacement)
    layers = dict(walk(plain))
    input_masks: dict[str, np.ndarray] = {}
    for path, layer in walk(model):
        if isinstance(layer, PrunedLayer):
            # A negative weight times 0 is -0.0, which does not compress as well as 0.0.
            masked = {key: value + 0.0 for key, value in layer.remaining_kernels().items()}
            copy_variables([masked.get(id(v), v) for v in layer.base_variables()], layers[path].variables)
            mask = layer.mask_source.input_mask()
            if mask is not None:
                input_masks[path] = mask
    if input_masks:
        silence_unread_channels(plain, input_masks)
    return plain
