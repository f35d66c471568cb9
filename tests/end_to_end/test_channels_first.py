"""A run that removes channels, then weights: one file that is small and fast, within both budgets."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest

from harp_tf import deploy, layers, pruning, strategies
from harp_tf.config import RunConfig
from harp_tf.pipeline import Run
from harp_tf.report.run import read_run
from harp_tf.types import HarpError
from tests.runs import read, untimed_metrics

CHANNEL_SPARSITY = 0.4


def settings(small_run, run_dir: Path, **changed) -> RunConfig:
    return RunConfig(
        **{
            "run_dir": str(run_dir),
            "init_from": str(small_run[0]),
            "stages": ("prune", "finetune", "export", "evaluate"),
            "granularity": "channel,weight",
            "target_sparsity": 0.95,
            "channel_sparsity": CHANNEL_SPARSITY,
            "channel_multiple": 2,
            "train_limit": 128,
            "test_limit": 60,
            "batch_size": 64,
            "eps": 0.1,
            "attack_steps": 1,
            "eval_steps": 1,
            "gamma": 0.3,
            "prune_epochs": 1,
            "finetune_epochs": 1,
            "seed": 3,
            **changed,
        }
    )


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def run_dir(small_run, said, tmp_path_factory) -> Path:
    """The directory of a whole run, not to be changed."""
    path = tmp_path_factory.mktemp("channels_first") / "run"
    Run(settings(small_run, path), say=said.append).run()
    return path


def nonzeros(model: keras.Model) -> int:
    return sum(kept for _, kept in layers.kernel_nonzeros(model).values())


def multiply_adds(model: keras.Model) -> int:
    return sum(cost.multiply_adds for cost in layers.layer_costs(model).values())


@pytest.mark.slow
def test_both_budgets_are_kept_in_the_model_and_in_the_file(run_dir):
    dense, pruned = (keras.models.load_model(run_dir / f"{name}.keras") for name in ("dense", "pruned"))
    weights = layers.prunable_weights(dense)
    permitted = math.floor(0.05 * weights)
    assert 0 < nonzeros(pruned) <= permitted
    assert multiply_adds(pruned) <= (1 - CHANNEL_SPARSITY) * multiply_adds(dense)
    channel, weight = read(run_dir / "rates_channel.json"), read(run_dir / "rates.json")
    assert (channel["granularity"], channel["budget_counts"]) == ("channel", "flops")
    assert channel["cost_kept"] <= channel["budget"] == math.floor((1 - CHANNEL_SPARSITY) * multiply_adds(dense))
    assert (weight["granularity"], weight["budget_counts"]) == ("weight", "weights")
    # The second part begins with what the first has left, and uses the budget of the whole up, to the last weight.
    assert permitted < weight["weights"] < weights and weight["budget"] == permitted
    assert nonzeros(keras.models.load_model(run_dir / "scored.keras")) == weight["kept"] <= permitted
    assert weight["target_sparsity"] == pytest.approx(1 - permitted / weight["weights"])
    file = deploy.kernel_nonzeros(run_dir / "model_sparse.tflite")
    assert sum(kernel.nonzero for kernel in file) == nonzeros(pruned)
    assert (run_dir / "model_sparse.tflite").stat().st_size < (run_dir / "model.tflite").stat().st_size / 2


@pytest.mark.slow
def test_the_plain_model_and_the_file_agree(run_dir):
    images = np.random.default_rng(0).random((20, 8, 8, 1), np.float32)
    pruned = keras.models.load_model(run_dir / "pruned.keras")
    assert not layers.pruned_kernels(pruned)
    logits = pruned.predict(images, verbose=0)
    assert logits.std() > 0.05
    np.testing.assert_allclose(
        deploy.TFLiteClassifier(run_dir / "model_sparse.tflite").logits(images), logits, rtol=0, atol=1e-4
    )


@pytest.mark.slow
def test_sparsity_is_relative_to_the_dense_model_and_counts_are_those_of_the_file(run_dir):
    results = read(run_dir / "results.json")
    weights = results["dense"]["parameters"]
    for key in ("pruned", "tflite_sparse"):
        figures = results[key]
        assert figures["parameters"] < 0.9 * weights
        assert figures["sparsity"] == 1 - figures["nonzero"] / weights >= 0.95
    assert results["dense"]["sparsity"] == results["tflite"]["sparsity"] == 0


@pytest.mark.slow
def test_the_report_tells_of_both_parts(run_dir, said):
    assert [line["stage"] for line in untimed_metrics(run_dir)] == ["prune_channels", "prune", "finetune"]
    assert all(path.endswith("/inputs") for path in untimed_metrics(run_dir)[0]["rates"])
    assert [line.split(" 1/1")[0] for line in said if " 1/1  loss" in line] == ["prune_channels", "prune", "finetune"]
    assert list(read_run(run_dir).stages) == ["prune_channels", "prune", "finetune"]
    page = (run_dir / "report.html").read_text()
    assert "prune_channels" in page and "rates_channel.json" in page


@pytest.mark.slow
def test_a_second_run_stage_by_stage_gives_the_same_bytes(small_run, run_dir, tmp_path, no_plots):
    again = tmp_path / "run"
    Run(settings(small_run, again, stages=("prune",)), say=lambda line: None).run()
    Run(settings(small_run, again, init_from=None, stages=("finetune",)), say=lambda line: None).run()
    for name in ("rates_channel.json", "rates.json", "dense.keras", "scored.keras", "pruned.keras"):
        assert (again / name).read_bytes() == (run_dir / name).read_bytes(), name
    assert untimed_metrics(again) == untimed_metrics(run_dir)


def test_channels_that_leave_fewer_weights_than_permitted_are_refused_before_the_training(small_run, tmp_path):
    config = settings(small_run, tmp_path / "run", target_sparsity=0.3, channel_sparsity=0.6)
    with pytest.raises(
        HarpError, match="weights, and target_sparsity = 0.3 permits .* lower channel_sparsity, or remove"
    ):
        Run(config)


def test_what_is_skipped_is_in_neither_budget(small_run):
    dense = keras.models.load_model(small_run[0] / "dense.keras")
    config = settings(small_run, Path("unused"), skip=("logits",), rate_bounds=("conv2=0.2:",))
    weights = layers.prunable_weights(dense, config.skip)
    assert layers.prunable_weights(dense) - weights == dense.get_layer("logits").kernel.shape[0] * 10
    small = pruning.without_channels(pruning.wrap_channels(dense, config, verbose=False))
    wrapped = pruning.wrap(small, config, strategies.uniform, weights, verbose=False)
    assert layers.budget_of(wrapped).permitted == math.floor(0.05 * weights)
    rates = layers.rate_table(wrapped)
    assert "logits/kernel" not in rates and rates["conv2/kernel"]["rate"] >= 0.2
