"""What every method owes: its masks keep the budget, what they remove is gone, and a seed repeats it."""

import keras
import numpy as np
import pytest

from harp_tf import layers
from harp_tf.baselines import METHODS
from tests.baselines.test_methods import NAMES
from tests.runs import WEIGHTS, kernels, metrics, read, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_plots")]


@pytest.fixture(scope="module")
def trained_file(tmp_path_factory):
    """The tiny model after a few natural epochs on the digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    model = tiny_model()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(digits.images[:1000, ..., None] / 16, digits.target[:1000], epochs=6, batch_size=50, verbose=0)
    path = tmp_path_factory.mktemp("trained") / "trained.keras"
    model.save(path)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_contract(tiny, tmp_path, trained_file, name):
    if name == "tfmot":
        pytest.importorskip("tensorflow_model_optimization")

    def run_in(folder):
        run = tiny(
            run_dir=str(tmp_path / folder),
            init_from=str(trained_file),
            stages=("prune", "finetune"),
            method=name,
            train_limit=600,
            prune_epochs=2,
            finetune_epochs=2,
            finetune_learning_rate=0.02,
            target_sparsity=0.8,
            eps=0.03,
        )
        run.run()
        return run

    run = run_in("a")
    rates, lines = read(run.dir / "rates.json"), metrics(run.dir)
    spent, budget = rates["kept"], WEIGHTS // 5
    assert (rates["method"], rates["budget"], rates["weights"]) == (name, budget, WEIGHTS)
    assert spent == budget if METHODS[name].mode == "score" and name != "flying_bird_plus" else spent <= budget
    # The same number of epochs, and of steps in them, for all.
    assert len(lines) == 4
    method = METHODS[name]
    pruning = 0 if method.one_shot else 2 if method.finetunes else 4
    assert [line["stage"] for line in lines].count("prune") == pruning
    # Masks are binary and are what was promised, in the network and in what is left of it.
    pruned = kernels(run.dir / "pruned.keras")
    scored = keras.models.load_model(run.dir / "scored.keras")
    for network in (scored, run.network):
        for kernel in layers.pruned_kernels(network):
            mask = np.asarray(kernel.scores.mask())
            assert set(np.unique(mask)) <= {0.0, 1.0}
            assert mask.sum() == rates["layers"][kernel.path]["kept"] >= 1
            weights = pruned[kernel.path.split("/")[0]]
            assert not weights[mask == 0].any() and np.count_nonzero(weights) <= mask.sum()
    images = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
    plain = keras.models.load_model(run.dir / "pruned.keras")
    np.testing.assert_allclose(plain(images), run.network(images, training=False), rtol=1e-4, atol=1e-4)
    best = max(line["logs"]["val_natural_accuracy"] for line in lines)
    assert best > (0.1 if name == "random" else 0.3)
    again = kernels(run_in("b").dir / "pruned.keras")
    for layer, weights in pruned.items():
        np.testing.assert_array_equal(again[layer], weights)
