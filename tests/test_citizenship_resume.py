"""A half-trained model that is saved, loaded in a new process and trained on ends as if nothing had happened."""

import json

import keras
import numpy as np
import pytest

import harp_tf
from harp_tf.attacks import PGD
from harp_tf.layers import pruned_kernels, pruning_spec
from harp_tf.losses import FreeAdversarialTraining

EPOCHS = 3

FRESH = """
import json, sys
import keras, numpy as np
import harp_tf
folder = sys.argv[1]
data = np.load(folder + "/data.npz")
trainer = keras.saving.load_model(folder + "/trainer.keras")
trainer.fit(
    data["x"], data["y"], batch_size=20, shuffle=False, verbose=0, initial_epoch=2, epochs=3,
    callbacks=[harp_tf.StepwiseRegularization(0.02)],
)
trainer.save(folder + "/resumed.keras")
network = keras.saving.load_model(folder + "/network.keras")
np.save(folder + "/logits.npy", network(data["x"]).numpy())
print(json.dumps([v.path for v in network.trainable_variables]))
"""


def network(seed=0) -> keras.Model:
    """A convolution with a regulariser, batch norm, dropout (whose random numbers have a state) and a dense head."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2", name="conv"),
            keras.layers.BatchNormalization(name="bn"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dropout(0.3, name="dropout"),
            keras.layers.Dense(3, name="logits"),
        ],
        name="network",
    )


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    return generator.uniform(size=(40, 6, 6, 1)).astype("float32"), (np.arange(40) % 3).astype("int32")


def trainer_of(loss="pgd", stage="prune", sparsity=0.9, skip=(), eager=True) -> harp_tf.AdversarialModel:
    pruned = harp_tf.prune(network(), sparsity, skip=skip, verbose=False)
    if stage == "finetune":
        harp_tf.project_to_budget(pruned)
        harp_tf.set_stage(pruned, "finetune")
    trainer = harp_tf.AdversarialModel(pruned, loss, PGD(eps=0.1, steps=2), weight_decay=1e-3, seed=11)
    trainer.compile(keras.optimizers.Adam(0.02), metrics=["accuracy"], run_eagerly=eager)
    return trainer


def fit(trainer, data, start=0, end=EPOCHS, callbacks=()):
    if trainer.learns_rates:
        callbacks = [*callbacks, harp_tf.StepwiseRegularization(0.02)]
    settings = {"batch_size": 20, "shuffle": False, "verbose": 0, "initial_epoch": start, "epochs": end}
    return trainer.fit(*data, callbacks=list(callbacks), **settings).history


def values(variables) -> dict[str, np.ndarray]:
    return {f"{i} {v.path}": keras.ops.convert_to_numpy(v) for i, v in enumerate(variables)}


def assert_same(trainer, other):
    """All state, bit for bit: network, optimiser, gamma, steps, perturbation."""
    for one, two in ((trainer.variables, other.variables), (trainer.optimizer.variables, other.optimizer.variables)):
        for (path, a), b in zip(values(one).items(), values(two).values(), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=path)


class Save(keras.callbacks.Callback):
    """Saves the model at the end of one epoch, before StepwiseRegularization sees that end."""

    def __init__(self, path, epoch=1):
        super().__init__()
        self.path, self.epoch = path, epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.model.save(self.path)


CASES = {
    "harp": {},
    "frozen gamma": {"sparsity": 0.3},
    "a layer left unpruned": {"skip": "logits"},
    "finetune": {"stage": "finetune", "loss": "trades"},
    "free": {"loss": FreeAdversarialTraining(batch_size=20, replays=2)},
}


@pytest.mark.parametrize("case", CASES)
def test_a_loaded_trainer_trains_on_exactly(case, data, tmp_path):
    whole = trainer_of(**CASES[case])
    path = tmp_path / "epoch.keras"
    fit(whole, data, callbacks=[Save(path)])
    resumed = keras.saving.load_model(path)
    assert [v.trainable for v in resumed.variables] == [v.trainable for v in whole.variables]
    fit(resumed, data, start=2)
    assert_same(resumed, whole)


def test_loaded_weights_train_on_exactly(data, tmp_path):
    whole, resumed = trainer_of(), trainer_of()
    fit(whole, data, end=2)
    whole.save_weights(tmp_path / "half.weights.h5")
    resumed.load_weights(tmp_path / "half.weights.h5")
    for trainer in (whole, resumed):
        fit(trainer, data, start=2)
    assert_same(resumed, whole)


def test_weights_of_another_training_are_refused(tmp_path):
    trainer_of(FreeAdversarialTraining(batch_size=16)).save_weights(tmp_path / "free.weights.h5")
    with pytest.raises(ValueError, match="Load it into an AdversarialModel of the same loss and network"):
        trainer_of("pgd").load_weights(tmp_path / "free.weights.h5")


@pytest.mark.slow
def test_a_new_process_trains_on_exactly(data, tmp_path, new_process):
    """Under safe mode, where only `import harp_tf` makes our classes known."""
    whole = trainer_of(eager=False)
    fit(whole, data, callbacks=[Save(tmp_path / "trainer.keras")])
    bare = trainer_of(stage="finetune").network
    bare.save(tmp_path / "network.keras")
    np.savez(tmp_path / "data.npz", x=data[0], y=data[1])
    (tmp_path / "fresh.py").write_text(FRESH)
    ended = new_process(str(tmp_path / "fresh.py"), str(tmp_path))
    assert ended.status == 0, ended.err
    assert_same(keras.saving.load_model(tmp_path / "resumed.keras"), whole)
    # The network by itself: its logits, and the stage in which it was.
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), bare(data[0]))
    trains = json.loads(ended.out.splitlines()[-1])
    assert trains == [v.path for v in bare.trainable_variables]
    assert "conv/kernel" in trains and not any("scores" in path for path in trains)


@pytest.mark.parametrize("stage", ["prune", "finetune"])
def test_a_loaded_network_is_in_its_stage(stage, tmp_path):
    saved = trainer_of(stage=stage).network
    saved.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert pruning_spec(loaded).stage == stage
    assert [v.path for v in loaded.trainable_variables] == [v.path for v in saved.trainable_variables]
    assert pruned_kernels(loaded)[0].scores.scores.trainable == (stage == "prune")
    assert "stage" not in json.dumps(harp_tf.strip(loaded).get_config())
