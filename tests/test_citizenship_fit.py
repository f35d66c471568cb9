"""Training like any other Keras model: callbacks of Keras, frozen parts, constraints, summary."""

import keras
import numpy as np
import pytest

import harp_tf
from harp_tf.attacks import PGD
from harp_tf.layers import pruned_kernels, rate_table


@pytest.fixture
def data():
    """30 images of three kinds, bright at the top, in the middle or at the bottom."""
    generator = np.random.default_rng(0)
    labels = (np.arange(30) % 3).astype("int32")
    images = generator.uniform(0.0, 0.5, size=(30, 6, 6, 1))
    for image, label in zip(images, labels):
        image[2 * label : 2 * label + 2] += 0.4
    return images.astype("float32"), labels


def classifier(**dense) -> keras.Sequential:
    keras.utils.set_random_seed(0)
    layers = [keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(8, name="hidden", **dense)]
    return keras.Sequential([*layers, keras.layers.ReLU(), keras.layers.Dense(3, name="logits")], name="classifier")


def trainer_of(network, optimizer=None, **options) -> harp_tf.AdversarialModel:
    trainer = harp_tf.AdversarialModel(network, "pgd", PGD(eps=0.1, steps=1))
    trainer.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9), **{"run_eagerly": True, **options})
    return trainer


def fit(trainer, data, *callbacks, epochs=1) -> dict:
    if trainer.learns_rates:
        callbacks = (harp_tf.StepwiseRegularization(0.1), *callbacks)
    options = {"validation_data": data, "batch_size": 15, "shuffle": False, "verbose": 0}
    return trainer.fit(*data, epochs=epochs, callbacks=list(callbacks), **options).history


def values(layer) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(v).copy() for v in layer.variables]


def assert_unchanged(layer, before):
    for variable, old in zip(layer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, old, err_msg=variable.path)


# Callbacks of Keras beside ours ---------------------------------------------------------------------------------


def test_early_stopping_that_restores_weights_keeps_the_promise(data):
    network = harp_tf.prune(classifier(), 0.9, verbose=False)
    for kernel in pruned_kernels(network):
        kernel.scores.set_rate(0.5)
    trainer = trainer_of(network, keras.optimizers.SGD(0.0))
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=0, restore_best_weights=True)
    history = fit(trainer, data, stopping, epochs=4)
    assert stopping.best_weights is not None and len(history["loss"]) < 4  # gamma and so the loss rises
    # It puts the rates back that exceed the target, after all other callbacks.
    assert sum(row["kept"] for row in rate_table(network).values()) == int(0.1 * (36 * 8 + 8 * 3))


@pytest.mark.parametrize(
    "first",
    [pytest.param(True, marks=pytest.mark.slow), pytest.param(False, marks=pytest.mark.slow)],
    ids=["KeepBest first", "KeepBest last"],
)
def test_checkpoints_logs_and_plateaus(data, tmp_path, first):
    network = harp_tf.prune(classifier(), 0.9, verbose=False)
    theirs = [
        keras.callbacks.ModelCheckpoint(
            str(tmp_path / "best.keras"), "val_natural_accuracy", save_best_only=True, mode="max"
        ),
        keras.callbacks.ModelCheckpoint(str(tmp_path / "last.weights.h5"), save_weights_only=True),
        keras.callbacks.TensorBoard(str(tmp_path / "logs"), histogram_freq=1),
        keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=0, min_delta=1e9),
        keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
    ]
    best = harp_tf.KeepBest()
    trainer = trainer_of(network)
    fit(trainer, data, *([best, *theirs] if first else [*theirs, best]), epochs=3)
    assert float(trainer.optimizer.learning_rate.numpy()) == pytest.approx(0.1 * 0.5**2)
    assert list((tmp_path / "logs").rglob("events.out.tfevents.*"))
    assert "adversarial_accuracy" in (tmp_path / "log.csv").read_text().splitlines()[0]
    loaded = keras.saving.load_model(tmp_path / "best.keras")
    assert int(loaded.steps.numpy()) in (2, 4, 6) and loaded.gamma.numpy() > 0
    assert "adversarial_accuracy" in loaded.evaluate(*data, batch_size=15, return_dict=True, verbose=0)
    # What KeepBest has kept was measured within the budget, and so is what it leaves.
    assert best.best_epoch is not None
    assert sum(row["kept"] for row in rate_table(network).values()) <= int(0.1 * (36 * 8 + 8 * 3))
    trainer.load_weights(tmp_path / "last.weights.h5")
    assert int(trainer.steps.numpy()) == 3 * 2


def test_gamma_rises_per_epoch_with_several_steps_per_call(data):
    network = harp_tf.prune(classifier(), 0.9, verbose=False)
    for kernel in pruned_kernels(network):
        kernel.scores.set_rate(0.5)
    optimizer = keras.optimizers.SGD(0.0)
    trainer = trainer_of(network, optimizer, run_eagerly=False, steps_per_execution=3)
    history = fit(trainer, data, epochs=3)
    assert history["gamma"] == pytest.approx([0.1, 0.2, 0.3])
    assert int(trainer.steps.numpy()) == 3 * 2


# Frozen parts -----------------------------------------------------------------------------------------------------


def backbone(frozen: bool) -> keras.Model:
    """A small network with moving statistics of its own, as if it had been trained elsewhere."""
    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((6, 6, 1)),
        keras.layers.Conv2D(4, 3, name="conv"),
        keras.layers.BatchNormalization(name="bn"),
        keras.layers.ReLU(name="relu"),
        keras.layers.GlobalAveragePooling2D(name="pool"),
    ]
    model = keras.Sequential(layers, name="backbone")
    for variable in model.get_layer("bn").variables:
        variable.assign(np.random.default_rng(2).uniform(0.5, 1.5, size=4))
    model.trainable = not frozen
    return model


def with_head(body: keras.Model) -> keras.Model:
    images = keras.Input((6, 6, 1), name="images")
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(body(images))
    return keras.Model(images, keras.layers.Dense(3, name="logits")(hidden), name="transfer")


def test_a_frozen_backbone_stays_as_it_is(data):
    model = with_head(backbone(frozen=True))
    before = values(model.get_layer("backbone"))
    network = harp_tf.prune(model, 0.5, verbose=False)
    assert [kernel.path for kernel in pruned_kernels(network)] == ["hidden/kernel", "logits/kernel"]
    body = network.get_layer("backbone")
    head = values(network.get_layer("hidden"))
    fit(trainer_of(network, keras.optimizers.SGD(0.1, weight_decay=0.1)), data, harp_tf.KeepBest())
    harp_tf.set_stage(network, "finetune")
    fit(trainer_of(network, keras.optimizers.SGD(0.1, weight_decay=0.1)), data)
    assert_unchanged(body, before)
    assert any((a != b).any() for a, b in zip(head, values(network.get_layer("hidden"))))
    # Its batch norm is in inference mode even while the head trains.
    np.testing.assert_array_equal(body(data[0], training=True), body(data[0], training=False))
    plain = harp_tf.strip(network)
    assert_unchanged(plain.get_layer("backbone"), before)
    assert not plain.get_layer("backbone").trainable_variables
    np.testing.assert_allclose(plain(data[0]), network(data[0]), rtol=1e-6, atol=1e-6)


def test_single_frozen_layers_of_a_backbone_stay_as_they_are(data):
    model = with_head(backbone(frozen=False))
    model.get_layer("backbone").get_layer("conv").trainable = False
    network = harp_tf.prune(model, 0.5, verbose=False)
    body = network.get_layer("backbone")
    conv, bn = values(body.get_layer("conv")), values(body.get_layer("bn"))
    harp_tf.set_stage(network, "finetune")
    fit(trainer_of(network), data)
    assert_unchanged(body.get_layer("conv"), conv)
    assert all((a != b).any() for a, b in zip(bn, values(body.get_layer("bn"))))


# What layers carry ------------------------------------------------------------------------------------------------


def test_constraints_hold_in_finetuning_and_are_handed_on(data):
    options = {"kernel_constraint": keras.constraints.NonNeg(), "bias_constraint": keras.constraints.MaxNorm(0.01)}
    network = harp_tf.prune(classifier(**options), 0.5, verbose=False)
    harp_tf.set_stage(network, "finetune")
    layer = network.get_layer("hidden")
    before = values(layer)
    fit(trainer_of(network), data)
    kernel, bias = layer.kernel.numpy(), layer.bias.numpy()
    assert (kernel >= 0).all() and not np.array_equal(kernel, before[0])
    assert 0.0 < np.linalg.norm(bias) <= 0.01 + 1e-6
    plain = harp_tf.strip(network).get_layer("hidden")
    assert isinstance(plain.kernel_constraint, keras.constraints.NonNeg) and (plain.kernel.numpy() >= 0).all()


def test_regularisers_are_handed_on():
    options = {
        "kernel_regularizer": keras.regularizers.L2(0.1),
        "bias_regularizer": keras.regularizers.L1(0.2),
        "activity_regularizer": keras.regularizers.L1(0.3),
    }
    network = harp_tf.prune(classifier(**options), 0.5, verbose=False)
    plain = harp_tf.strip(network)
    for model in (network, plain):
        for name, regulariser in options.items():
            assert getattr(model.get_layer("hidden"), name).get_config() == regulariser.get_config()
    # A frozen kernel is not regularised; the activity is.
    network(np.ones((1, 6, 6, 1), "float32"))
    assert len(network.losses) == 1
    harp_tf.set_stage(network, "finetune")
    network(np.ones((1, 6, 6, 1), "float32"))
    assert len(network.losses) == 3


def test_summaries_count_what_trains():
    network = harp_tf.prune(classifier(), 0.5, verbose=False)
    lines = []
    trainer_of(network).summary(print_fn=lambda line, **_: lines.append(line))
    text = "\n".join(lines)
    scores = 36 * 8 + 8 * 3 + 2  # and two rates
    assert "classifier" in text and f"Trainable params: {scores}" in text
    lines.clear()
    network.summary(print_fn=lambda line, **_: lines.append(line))
    assert "PrunedDense" in "\n".join(lines)
