"""A training that was interrupted needs its variables, and nothing else, to end with the same bits."""

import keras
import numpy as np
import pytest

from harp_tf.baselines.flying_bird import FlyingBirdPlusTraining, FlyingBirdTraining
from harp_tf.baselines.radmm import AdmmTraining
from harp_tf.baselines.tfmot import TfmotTraining
from tests.baselines.nets import images, masks, wrapped


def variables(trainer):
    return [*trainer.variables, *trainer.optimizer.variables]


class After(keras.callbacks.Callback):
    """Keeps the variables at the end of the first epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.kept = [keras.ops.convert_to_numpy(v) for v in variables(self.model)]


class Before(keras.callbacks.Callback):
    """Puts them back when another training begins."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept

    def on_train_begin(self, logs=None):
        for variable, value in zip(variables(self.model), self.kept, strict=True):
            variable.assign(value)


def fitted(trainer_of, callback, first=0):
    network = wrapped(strategy="erk")
    trainer = trainer_of(network, "natural", None)
    trainer.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    pictures, labels = images(64)
    trainer.fit(
        pictures,
        labels,
        batch_size=16,
        epochs=3,
        steps_per_epoch=4,
        initial_epoch=first,
        shuffle=False,
        verbose=0,
        validation_data=images(seed=1),
        callbacks=[callback],
    )
    return trainer


@pytest.mark.parametrize(
    "trainer_of",
    [
        AdmmTraining,
        *(pytest.param(t, marks=pytest.mark.slow) for t in (FlyingBirdTraining, FlyingBirdPlusTraining, TfmotTraining)),
    ],
)
def test_the_variables_are_all_of_the_state(trainer_of):
    if trainer_of is TfmotTraining:
        pytest.importorskip("tensorflow_model_optimization")
    watched = After()
    whole = fitted(trainer_of, watched)
    tracked = {id(variable) for variable in whole.variables}
    assert all(id(variable) in tracked for variable in whole.own_state().values())
    resumed = fitted(trainer_of, Before(watched.kept), first=1)
    for mine, theirs in zip(resumed.network.variables, whole.network.variables, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for path, mask in masks(whole.network).items():
        np.testing.assert_array_equal(masks(resumed.network)[path], mask)
