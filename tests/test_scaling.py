"""The cost model of docs/scaling.md, and that its tables are those of the measured results."""

import json

import keras
import numpy as np
import pytest

import harp_tf
from benchmarks import scaling
from harp_tf import losses

RESULTS = json.loads((scaling.FOLDER / "results.json").read_text())


@pytest.mark.parametrize(
    "loss, attack_steps, replays",
    [("natural", 0, 1), ("pgd", 3, 1), ("trades", 3, 1), ("mart", 2, 1), ("free", 0, 4)],
)
def test_the_passes_of_a_step_are_those_that_are_made(loss, attack_steps, replays):
    calls = {True: 0, False: 0}

    class Counting(keras.layers.Dense):
        def call(self, inputs, training=None):
            calls[bool(training)] += 1
            return super().call(inputs)

    network = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), Counting(3)])
    calls.update({True: 0, False: 0})
    attack = harp_tf.attacks.PGD(eps=0.1, steps=max(1, attack_steps)) if loss != "natural" else None
    chosen = losses.get(loss, beta=6.0, batch_size=2, replays=replays)
    trainer = harp_tf.AdversarialModel(network, chosen, attack)
    trainer.compile("sgd", run_eagerly=True)
    trainer.train_step((np.zeros((2, 4, 4, 1), np.float32), np.array([0, 1])))
    backward = 2 * calls[True] + attack_steps
    assert scaling.passes(loss, attack_steps, replays) == sum(calls.values()) + backward


def test_the_tables_of_the_document_are_made_of_the_results():
    text = scaling.DOCUMENT.read_text(encoding="utf-8")
    assert scaling.document(text, RESULTS) == text


def test_the_model_predicts_what_was_measured():
    for row in RESULTS["sizes"]:
        assert row["reduced"] == row["reduced_measured"]
        predicted = scaling.checkpoint_bytes(row["network"], row["slots"])
        assert 0 <= row["checkpoint_measured"] - predicted < 0.02 * predicted


def test_the_cost_of_a_stage():
    stage = scaling.Stage("pretrain", epochs=2, reduced=1_000)
    run = {"train": 1_050, "validation": 0, "batch": 100, "replays": 4, "multiply_adds": 500, "attack_steps": 10}
    cluster = scaling.Cluster(4, peak=1e6, utilisation=0.5, bandwidth=1e3)
    cost = scaling.stage_cost(stage, run, cluster)
    assert (cost["steps"], cost["updates"], cost["reduced_per_step"]) == (20, 80, 4_000)
    assert cost["flops"] == 20 * 2 * 500 * 100 * 13
    assert cost["computing_hours"] == pytest.approx(26e6 / 2e6 / 3600)
    assert cost["reducing_hours"] == pytest.approx(80 * 1.5 / 3600)  # each byte leaves a device 1.5 times
    assert cost["images_per_second"] == pytest.approx(2_000 / (13 + 120))
