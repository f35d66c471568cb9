"""Attacks that run again and again, or for many steps, need no more memory and trace no more graphs."""

import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from harp_tf.attacks import PGD, APGDTargeted, Cascade, Engine, FABTargeted, Square, evaluate

SHAPE, CLASSES, EXAMPLES = (64, 64, 3), 4, 64
BATCH_MB = EXAMPLES * np.prod(SHAPE) * 4 / 2**20  # 3 MB
IMAGES = tf.random.stateless_uniform([EXAMPLES, *SHAPE], [1, 2]).numpy()
WEIGHTS = tf.random.stateless_normal([16 * 16 * 3, CLASSES], [3, 4])
EPS = 1e-5  # so small that all images stand to the end


def logits(images):
    return tf.reshape(tf.nn.avg_pool2d(images, 4, 4, "VALID"), [-1, len(WEIGHTS)]) @ WEIGHTS


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from /proc")
def test_repeated_runs_keep_nothing():
    parts = {
        "pgd": PGD(eps=EPS, steps=2),
        "t": APGDTargeted(eps=EPS, steps=2, targets=2),
        "fab": FABTargeted(eps=EPS, steps=2, targets=2),
        "square": Square(eps=EPS, queries=2),
    }
    engine = Engine(Cascade(eps=EPS, parts=tuple(parts.items())), logits, SHAPE, CLASSES)
    labels = logits(IMAGES).numpy().argmax(-1).astype(np.int32)
    predictors = {"model": lambda batch: logits(tf.constant(batch)).numpy()}

    def run(count):
        for number in range(count):
            size = EXAMPLES - number % 3  # a graph for every size of a batch would be kept as well
            outcome = engine.run(
                IMAGES[:size],
                labels[:size],
                np.arange(size),
                predictors,
                {"model": np.ones(size, bool)},
                seed=number,
            )
            assert outcome.standing["model"].all()

    run(4)
    traced, before = engine.traces, resident_mb()
    run(12)
    assert engine.traces == traced == len(parts)
    # One batch that was kept in each run would be 36 MB; an allocator's own play is a few.
    assert resident_mb() - before < 6 * BATCH_MB


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from /proc")
def test_an_evaluation_keeps_no_images():
    labels = logits(IMAGES).numpy().argmax(-1).astype(np.int32)
    batches = ((tf.identity(IMAGES), tf.constant(labels)) for _ in range(24))
    resident = []
    evaluate(
        logits,
        batches,
        {"pgd1": PGD(eps=EPS, steps=1)},
        {"model": lambda batch: logits(tf.constant(batch)).numpy()},
        CLASSES,
        progress=lambda progress: resident.append(resident_mb()),
    )
    # The clean or the adversarial images of 20 batches would be 60 MB.
    assert resident[-1] - resident[len(resident) // 6] < 6 * BATCH_MB


@pytest.mark.parametrize("attack", [PGD, APGDTargeted], ids=lambda attack: attack.__name__)
def test_memory_does_not_grow_with_the_steps(attack):
    images = tf.constant(IMAGES)
    labels = tf.argmax(logits(images), -1, tf.int32)
    seed = tf.constant([0, 0])

    def peak_mb(steps):
        graph = tf.function(lambda x, y: attack(eps=EPS, steps=steps).attempt(logits, x, y, seed, 0), autograph=False)
        graph(images, labels)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)

    few = peak_mb(2)
    # Iterates or tapes that were kept would be 3 MB and more a step.
    assert peak_mb(42) - few < 15 * BATCH_MB
