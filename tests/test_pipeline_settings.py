"""No setting of a run is lost on the way to its place."""

import json
import math

import keras
import numpy as np
import pytest

from harp_tf import layers, pipeline, pruning
from harp_tf.config import RunConfig
from harp_tf.types import HarpError
from tests.runs import WEIGHTS, counts, metrics, read, tiny_model

pytestmark = pytest.mark.usefixtures("no_plots")


def test_hydra_keeps_the_rates_of_a_file_that_was_read_at_the_start(tiny, tmp_path):
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"first/kernel": 0.5, "second/kernel": 0.05, "last/kernel": 0.05}))
    run = tiny(strategy=str(path), method="hydra")
    path.unlink()  # hours before the prune stage begins
    run.run()
    rates = read(run.dir / "rates.json")
    assert counts(rates) == {"first/kernel": 36, "second/kernel": 58, "last/kernel": 128}
    assert (rates["method"], rates["mode"], rates["projected"], rates["kept"]) == ("hydra", "score", False, 222)
    assert rates["kept"] <= rates["budget"] == math.floor(0.1 * WEIGHTS)
    scored = keras.models.load_model(run.dir / "scored.keras")
    initial = layers.prune(tiny_model(), 0.9, mode="score", verbose=False)
    for a, b in zip(layers.pruned_kernels(scored), layers.pruned_kernels(initial), strict=True):
        assert (np.asarray(a.scores.scores) != np.asarray(b.scores.scores)).any()


@pytest.mark.slow
def test_the_method_rate_keeps_its_initial_scores(tiny):
    run = tiny(method="rate")
    run.run()
    assert read(run.dir / "rates.json")["mode"] == "rate"
    scored = keras.models.load_model(run.dir / "scored.keras")
    initial = layers.prune(tiny_model(), 0.9, mode="rate", verbose=False)
    for a, b in zip(layers.pruned_kernels(scored), layers.pruned_kernels(initial), strict=True):
        np.testing.assert_array_equal(np.asarray(a.scores.scores), np.asarray(b.scores.scores))
        assert float(a.scores.rate()) != float(b.scores.rate())


@pytest.mark.parametrize(
    "loss", ["mart", *(pytest.param(loss, marks=pytest.mark.slow) for loss in ("natural", "trades"))]
)
def test_losses(tiny, loss):
    run = tiny(loss=loss, optimizer="adam" if loss == "natural" else "sgd", prune_learning_rate=0.01)
    run.run()
    (line,) = metrics(run.dir)
    assert math.isfinite(line["logs"]["loss"]) and line["logs"]["robust_loss"] > 0
    # The validation split is attacked whatever the loss, since it chooses the epoch.
    assert "val_adversarial_accuracy" in line["logs"]
    assert ("adversarial_accuracy" in line["logs"]) == (loss != "natural")
    assert read(run.dir / "rates.json")["kept"] <= math.floor(0.1 * WEIGHTS)


def test_the_schedule_of_free_counts_its_replays(tiny, module_of_a_user):
    run = tiny(
        init_from=None,
        model="tiny_of_a_user:build",
        stages=("pretrain",),
        loss="free",
        replays=3,
        pretrain_epochs=4,
        warmup_epochs=1.0,
    )
    run.run()

    # Four epochs of four batches, each used three times: 48 updates, 12 of them warm-up.
    def cosine(step):
        return 0.1 * 0.5 * (1 + math.cos(math.pi * (step - 12) / 35))

    rates = [line["logs"]["learning_rate"] for line in metrics(run.dir)]
    assert rates == pytest.approx([0.1 / 12, cosine(12), cosine(24), cosine(36)], rel=1e-4)


def test_the_augmentation_reaches_the_data(tiny):
    plain, shifted = (tiny(augment=how).data.train.training_batches(8, seed=0) for how in ("none", "shift"))
    (images, _), (moved, _) = next(iter(plain)), next(iter(shifted))
    assert not np.array_equal(images, moved)


def test_settings_of_the_attacks(tiny):
    run = tiny(eps=0.2, norm="l2", attack_steps=4, eval_steps=7)
    assert (
        run.fitting.attack.eps,
        run.fitting.attack.norm,
        run.fitting.attack.steps,
        run.fitting.attack.step_size,
    ) == (0.2, "l2", 4, 0.05)
    (name, final), = run.final_attacks.items()  # fmt: skip
    assert name == "pgd7"
    assert (final.eps, final.norm, final.steps) == (0.2, "l2", 7) and final.step_size == pytest.approx(0.02)
    run = tiny(attack_step_size=0.0, eval_step_size=0.0)
    assert run.fitting.attack.step_size == 0.0 and run.final_attacks["pgd1"].step_size == 0.0


def test_radii_of_a_training_hold_its_own(tiny):
    with pytest.raises(HarpError, match="eps_list must hold eps = 0.1"):
        tiny(eps_list=("0.2",), stages=("prune", "finetune", "export", "evaluate"))
    tiny(eps_list=("0.2",))  # is not evaluated


def test_settings_of_the_data_and_the_pruning(tiny):
    run = tiny(train_limit=90, test_limit=30, validation_fraction=0.5, skip=("last",), budget="flops", initial_rate=0.3)
    assert (run.data.train.num_examples, run.data.validation.num_examples, run.data.test.num_examples) == (90, 90, 30)
    wrapped = pruning.wrap(run.network, run.config, run._strategy, WEIGHTS, verbose=False)
    assert [kernel.path for kernel in layers.pruned_kernels(wrapped)] == ["first/kernel", "second/kernel"]
    assert layers.pruning_spec(wrapped).budget == "flops"
    assert all(row["rate"] == pytest.approx(0.3, rel=1e-4) for row in layers.rate_table(wrapped).values())


def test_a_budget_in_multiply_adds_with_bounds(tiny):
    """Rates that are far above the target at the end are projected, and the run directory says what was promised."""
    run = tiny(
        target_sparsity=0.9, budget="flops", rate_bounds=("last=0.5:", "first=:0.6"), gamma=1e-6, stages=("prune",)
    )
    run.run()
    scored = keras.models.load_model(run.dir / "scored.keras")
    costs = layers.layer_costs(keras.models.load_model(run.dir / "pruned.keras"))
    rates = read(run.dir / "rates.json")
    total = sum(cost.multiply_adds for cost in costs.values())
    kept = sum(row["kept"] * costs[path].multiply_adds // costs[path].weights for path, row in rates["layers"].items())
    assert (rates["budget_counts"], rates["cost"], rates["budget"]) == ("flops", total, total // 10)
    assert rates["cost_kept"] == kept <= rates["budget"]
    assert layers.budget_of(scored) == layers.Budget("flops", total, total // 10, kept)
    assert rates["layers"]["last/kernel"]["rate"] >= 0.5 and rates["layers"]["first/kernel"]["rate"] <= 0.6


def test_a_run_by_channels(tiny):
    """The run directory names the channel spaces; what is stripped, exported and counted has the promised cost."""
    run = tiny(target_sparsity=0.3, granularity="channel", channel_multiple=2, gamma=1e-6)
    run.run()
    rates = read(run.dir / "rates.json")
    scored = keras.models.load_model(run.dir / "scored.keras")
    assert rates["granularity"] == layers.pruning_spec(scored).granularity == "channel"
    assert list(rates["layers"]) == [kernel.path for kernel in layers.pruned_kernels(scored)]
    for path, row in rates["layers"].items():
        assert path.endswith("/inputs") and 1 <= row["kept_channels"] <= row["channels"]
    assert rates["cost_kept"] <= rates["budget"] == math.floor(0.7 * WEIGHTS)
    left = sum(kept for _, kept in layers.kernel_nonzeros(keras.models.load_model(run.dir / "pruned.keras")).values())
    assert left < rates["cost_kept"]  # what makes the removed channels is gone as well


def test_every_setting_is_used():
    """A flag that nobody reads would be a promise that nobody keeps."""
    folder = pipeline.Path(pipeline.__file__).parent
    files = (
        "pipeline.py",
        "fitting.py",
        "workers.py",
        "pruning.py",
        "measure.py",
        "run_dir.py",
        "train.py",
        "config.py",
    )
    sources = "".join((folder / name).read_text() for name in files)
    for name in RunConfig.__dataclass_fields__:
        assert any(f"{owner}.{name}" in sources for owner in ("config", "c", "self")), name
