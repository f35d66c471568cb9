"""The verb `set_stage`: what of a pruned model trains next."""

import keras

from harp_tf.layers.budget import PROJECTED, project_to_budget
from harp_tf.layers.model import pruned_kernels, pruning_spec
from harp_tf.layers.pruned import PrunedLayer
from harp_tf.layers.rebuild import walk
from harp_tf.layers.stages import free_variables
from harp_tf.types import STAGES, require_choice


def set_stage(model: keras.Model, stage: str) -> None:
    """Freezes and unfreezes the variables of a pruned model for a stage.

    Compile afterwards. A model whose rates are learned goes to "finetune" within its budget: rates that exceed it are
    projected onto it, and a line says so. The pruned layers remember the stage when the model is saved; layers that
    were left unpruned find it again when the loaded model is trained by an `AdversarialModel`, or set to the stage
    anew.

    Args:
        model: a model made by `harp_tf.prune`.
        stage: "prune" trains scores and rates (as the model's mode says) and normalisation layers, "finetune"
            trains all weights under fixed masks, and "joint" trains all of these together, which is not in the paper.
            Layers whose `trainable` is False stay frozen.

    Raises:
        HarpError: for another stage, a model without pruned layers, or a budget that cannot be met.
    """
    require_choice("stage", stage, STAGES)
    spec = pruning_spec(model)
    leaves = stage == "finetune" != spec.stage and spec.mode != "score"
    if leaves and project_to_budget(model):  # else weights would be finetuned that `strip` removes
        print(PROJECTED)
    for _, layer in walk(model):
        if isinstance(layer, PrunedLayer):
            layer.set_stage(stage)
        else:
            free_variables(layer, stage)
    for kernel in pruned_kernels(model):
        for copy in kernel.copies:
            copy.scores.trainable = copy.logit.trainable = False
        kernel.follow()
