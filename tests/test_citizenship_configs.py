"""Every class of ours that Keras saves gives back all that its constructor takes: no field is forgotten."""

import inspect
import json

import keras
import pytest

import harp_tf
from harp_tf import attacks, compression, losses
from harp_tf.attacks.autoattack import Cascade
from harp_tf.attacks.fab import FABTargeted
from harp_tf.attacks.fmn import FMN
from harp_tf.attacks.square import Square
from harp_tf.layers.scores import ChannelScores, KernelScores, LogitRange
from harp_tf.types import PruningSpec

SPEC = PruningSpec(0.8, mode="rate", budget="flops", floor_factor=0.2, stage="finetune")

# One object per class; every field that has a default has another value here.
SAMPLES = {
    "Natural": lambda: losses.Natural(),
    "PGDAdversarialTraining": lambda: losses.PGDAdversarialTraining(),
    "Trades": lambda: losses.Trades(beta=2.0),
    "Mart": lambda: losses.Mart(beta=3.0),
    "FreeAdversarialTraining": lambda: losses.FreeAdversarialTraining(batch_size=3, replays=2),
    "PGD": lambda: attacks.PGD(eps=0.1, norm="l2", step_size=0.3, steps=3, objective="kl", start="normal", restarts=2),
    "CW": lambda: attacks.CW(eps=0.1, norm="l2", step_size=0.3, steps=3, start="normal", restarts=2),
    "APGD": lambda: attacks.APGD(eps=0.1, norm="l2", steps=7, rho=0.5, passes=2, objective="dlr"),
    "APGDTargeted": lambda: attacks.APGDTargeted(eps=0.1, norm="l2", steps=7, rho=0.5, passes=2, targets=3),
    "FABTargeted": lambda: FABTargeted(eps=0.1, norm="l2", targets=3, steps=4, alpha_max=0.2, eta=1.1, beta=0.8),
    "FMN": lambda: FMN(eps=0.1, norm="l2", steps=4, step_size=0.7, gamma=0.1),
    "Square": lambda: Square(eps=0.1, norm="l2", queries=9, p_init=0.3),
    "Cascade": lambda: Cascade(eps=0.1, norm="l2", parts=(("a", attacks.PGD(eps=0.1, norm="l2")),)),
    "LearningRate": lambda: compression.LearningRate(0.3, 70, "step", warmup_steps=5, final=0.01),
    "LogitRange": lambda: LogitRange(-3.0, 4.0),
    "KernelScores": lambda: KernelScores((3, 4), 3, 0.1, 0.5, name="k", trainable=False),
    "ChannelScores": lambda: ChannelScores(8, 0.1, 0.5, 4, name="c", trainable=False),
    "AdversarialModel": lambda: harp_tf.AdversarialModel(
        network(),
        "trades",
        attacks.PGD(eps=0.1),
        weight_decay=0.2,
        seed=7,
        accumulate=2,
        name="trainer",
        dtype="bfloat16",
    ),
}


def network() -> keras.Model:
    dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="logits")])
    return harp_tf.prune(dense, 0.5, verbose=False)


def own_classes() -> dict[str, type]:
    """What we have registered with Keras, by class name; `PrunedComposite` has no constructor of its own."""
    found = {
        name.removeprefix("harp_tf>"): cls
        for name, cls in keras.saving.get_custom_objects().items()
        if cls.__module__.startswith("harp_tf.") and not inspect.isabstract(cls)
    }
    return {name: cls for name, cls in found.items() if name != "PrunedComposite"}


OWN = own_classes()
PRUNED = sorted(name for name in OWN if name.startswith("Pruned"))


def subclasses(cls: type) -> set[type]:
    return {cls}.union(*(subclasses(sub) for sub in cls.__subclasses__()))


def test_no_class_is_forgotten():
    assert set(SAMPLES) == set(OWN) - set(PRUNED), "give each class that Keras saves a sample"
    saved_by_keras = (
        keras.layers.Layer,
        keras.constraints.Constraint,
        keras.regularizers.Regularizer,
        keras.initializers.Initializer,
        keras.metrics.Metric,
        keras.losses.Loss,
        keras.optimizers.schedules.LearningRateSchedule,
        attacks.Attack,
        losses.RobustLoss,
    )
    for base in saved_by_keras:
        for cls in subclasses(base):
            concrete = cls.__module__.startswith("harp_tf.") and not inspect.isabstract(cls)
            if cls.__module__.startswith("harp_tf.baselines."):
                continue  # a run makes them of its settings, and its checkpoints hold variables alone
            if not getattr(cls, "base_class", keras.layers.Layer).__module__.startswith("keras."):
                continue  # the pruned form of a layer that another test registers
            bases = ("Scores", "PrunedLayer", "KerasUnderStrategies")  # of classes that are saved
            if concrete and cls.__name__ not in bases:
                assert cls.__name__ in OWN or "composite" in cls.__module__, f"{cls} is not registered with Keras"


def serialised(thing) -> dict:
    return json.loads(json.dumps(keras.saving.serialize_keras_object(thing)))


@pytest.mark.parametrize("name", SAMPLES)
def test_every_field_survives(name):
    original = SAMPLES[name]()
    restored = keras.saving.deserialize_keras_object(serialised(original), safe_mode=True)
    assert type(restored) is type(original) is OWN[name]
    assert serialised(restored) == serialised(original)
    config = original.get_config()
    for field, parameter in inspect.signature(type(original)).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            assert field in config, f"{name}.get_config() forgets {field}"
            default = None if parameter.default is parameter.empty else parameter.default
            assert config[field] != default, f"give {field} another value than its default in SAMPLES"
    if isinstance(original, keras.layers.Layer):
        for field in ("name", "trainable", "dtype"):
            assert getattr(original, field) == getattr(restored, field)


@pytest.mark.parametrize("name", PRUNED)
def test_pruned_layers_keep_what_the_plain_layer_takes(name):
    base = OWN[name].base_class
    arguments = {"name": "own_name", "trainable": False, "dtype": "mixed_bfloat16"}
    if base is keras.layers.EinsumDense:
        arguments |= {"equation": "ab,bc->ac", "output_shape": 3}
    elif base is keras.layers.Dense:
        arguments |= {"units": 3, "use_bias": False, "activity_regularizer": "l2", "kernel_constraint": "non_neg"}
    else:
        arguments |= {"kernel_size": 3, "strides": 2, "padding": "same"}
        arguments |= {} if "Depthwise" in name else {"filters": 5}
    layer = OWN[name](**arguments, pruning=SPEC, rate_bounds={"kernel": (0.3, 0.5)})
    restored = keras.saving.deserialize_keras_object(serialised(layer), safe_mode=True)
    assert serialised(restored) == serialised(layer)
    assert restored.pruning == SPEC and restored.rate_bounds == {"kernel": (0.3, 0.5)}
    plain = base(**arguments).get_config()
    assert plain.items() <= {**plain, **layer.get_config()}.items()
    assert set(plain) <= set(layer.get_config()) and restored.trainable is False
