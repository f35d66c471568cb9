"""Standard AutoAttack beside the verdicts of the official code; random numbers are our own."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import AutoAttack, Engine

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


@pytest.mark.slow
@pytest.mark.parametrize("count", [60])
def test_every_stage_leaves_what_the_official_one_leaves(count):
    with np.load(GOLDEN / "apgd_reference.npz", allow_pickle=False) as file:
        images = (file["images"][:count] / 255).astype(np.float32)
        labels, index, eps = file["labels"][:count], file["index"][:count], float(file["eps"])
    with np.load(GOLDEN / "autoattack_reference.npz", allow_pickle=False) as file:
        official = {stage: file[f"robust_after_{stage}"][:count] for stage in ("apgd_ce", "apgd_t", "fab_t", "square")}
    model = keras.models.load_model(GOLDEN / "robust_fmnist.keras", compile=False)

    def logits(batch):
        return model(batch, training=False)

    attack = AutoAttack(eps=eps)
    engine = Engine(attack, logits, images.shape[1:], 10)
    predictors = {"model": lambda batch: logits(tf.constant(batch)).numpy()}
    outcome = engine.run(images, labels, index, predictors, {"model": np.ones(count, bool)})
    assert [name for name, _ in attack.parts] == list(official)
    for left, verdicts in zip(outcome.parts["model"], official.values()):
        assert abs(left - verdicts.sum()) <= 1
    assert (outcome.standing["model"] != official["square"]).sum() <= 1
    assert 0 < official["square"].sum() < official["apgd_ce"].sum() < count
