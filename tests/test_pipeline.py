"""A run in its directory: what it starts from, what it may remove, and that no setting is lost on the way."""

import dataclasses
import json
import math
import os
import shutil

import keras
import numpy as np
import pytest
from keras import layers as keras_layers

from harp_tf import data, deploy, layers, pipeline, pruning, report
from harp_tf.attacks import State
from harp_tf.config import RunConfig
from harp_tf.files import save_keras
from harp_tf.measure import Measurement
from harp_tf.pipeline import Run
from harp_tf.types import HarpError

WEIGHTS = 8 * 9 + 16 * 8 * 9 + 10 * 256
"""Prunable weights of `tiny_model`."""

TINY_MODULE = """
import keras
from keras import layers


def build(input_shape, num_classes):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(8, 3, padding="same", use_bias=False, name="first"),
            layers.BatchNormalization(momentum=0.9, name="norm"),
            layers.ReLU(name="relu"),
            layers.Conv2D(16, 3, strides=2, padding="same", name="second"),
            layers.ReLU(name="relu2"),
            layers.Flatten(name="flatten"),
            layers.Dense(num_classes, name="last"),
        ],
        name="tiny",
    )
"""


def tiny_model() -> keras.Model:
    """The model that the module `tiny_of_a_user` builds, with always the same weights."""
    names: dict = {}
    exec(TINY_MODULE, names)
    keras.utils.set_random_seed(5)
    model = names["build"]((8, 8, 1), 10)
    for weights in model.layers[1].weights:  # moving statistics and scales that are not the initial ones
        weights.assign(np.linspace(0.5, 1.5, weights.shape[0]))
    return model


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.keras"
    tiny_model().save(path)
    return path


@pytest.fixture
def module_of_a_user(tmp_path, monkeypatch):
    (tmp_path / "tiny_of_a_user.py").write_text(TINY_MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """The pictures cost seconds a run; test_run_directory.py looks at those of a whole run."""
    monkeypatch.setattr(report, "write_plots", lambda run_dir: None)


@pytest.fixture
def lines():
    """What runs said."""
    return []


@pytest.fixture
def tiny(tmp_path, tiny_file, lines):
    """Makes a run of one epoch a stage on a few digits, from the tiny .keras file where it is not told otherwise."""

    def make(**settings) -> Run:
        defaults = {
            "run_dir": str(tmp_path / "run"),
            "init_from": str(tiny_file),
            "stages": ("prune",),
            "train_limit": 128,
            "test_limit": 60,
            "batch_size": 32,
            "attack_steps": 1,
            "eval_steps": 1,
            "eps": 0.1,
            "target_sparsity": 0.9,
            "gamma": 0.5,
            "pretrain_epochs": 1,
            "prune_epochs": 1,
            "finetune_epochs": 1,
        }
        return Run(RunConfig(**{**defaults, **settings}), say=lines.append)

    return make


@pytest.fixture
def copy(small_run, tmp_path):
    """A copy of the small run's directory, to be changed."""
    return shutil.copytree(small_run[0], tmp_path / "copy")


def read(path):
    return json.loads(path.read_text())


def kernels(path) -> dict[str, np.ndarray]:
    model = keras.models.load_model(path)
    return {layer.name: np.asarray(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")}


def counts(rates: dict) -> dict[str, int]:
    return {path: row["kept"] for path, row in rates["layers"].items()}


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def metrics(run_dir) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


# Budgets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.9, 0.95, 0.99, 0.995, 0.999])
def test_the_budget_is_kept_in_graph_model_and_file(tiny, sparsity, lines, capsys):
    run = tiny(target_sparsity=sparsity, stages=("prune", "export"), gamma=0.1)
    run.run()
    budget = math.floor((1 - sparsity) * WEIGHTS + 1e-9)
    rates = read(run.dir / "rates.json")
    assert rates["budget"] == budget and rates["kept"] == rates["cost_kept"] <= budget
    assert (rates["budget_counts"], rates["cost"]) == ("weights", rates["weights"])
    kept = counts(rates)
    assert sum(kept.values()) == rates["kept"] and min(kept.values()) >= 1
    scored = keras.models.load_model(run.dir / "scored.keras")
    pruned = keras.models.load_model(run.dir / "pruned.keras")
    for model in (scored, pruned):
        assert {path: nonzero for path, (_, nonzero) in layers.kernel_nonzeros(model).items()} == kept
    assert {k.name: k.nonzero for k in deploy.kernel_nonzeros(run.dir / "model_sparse.tflite")} == kept
    images = run.data.validation.arrays()[0]
    np.testing.assert_allclose(
        deploy.TFLiteClassifier(run.dir / "model_sparse.tflite").logits(images),
        pruned.predict(images, verbose=0),
        rtol=0,
        atol=1e-4,
    )
    # An epoch of four steps does not bring 10 % down to these: the run says that it had to project.
    assert rates["projected"] == any("projected onto it" in line for line in lines)
    assert rates["projected"] or sparsity < 0.99
    assert "projected" not in capsys.readouterr().out, "told by a callback of another epoch than the one that is kept"


# Where a run starts from -----------------------------------------------------------------------------------------


def test_from_a_run_directory_with_its_learned_rates(tiny, small_run):
    before = contents(small_run[0])
    learned = small_run[0] / "rates.json"
    run = tiny(init_from=str(small_run[0]), strategy=str(learned), mode="score", target_sparsity=0.95)
    run.run()
    original, mine = kernels(small_run[0] / "dense.keras"), kernels(run.dir / "dense.keras")
    pruned = kernels(run.dir / "pruned.keras")
    for name in original:
        np.testing.assert_array_equal(mine[name], original[name])
        np.testing.assert_array_equal(pruned[name], original[name] * (pruned[name] != 0))
    assert {line["stage"] for line in metrics(run.dir)} == {"prune"}
    assert contents(small_run[0]) == before
    rates = read(run.dir / "rates.json")
    assert counts(rates) == counts(read(learned))
    assert (rates["strategy"], rates["projected"]) == (str(learned), False)


def test_a_trained_file_is_not_pretrained_and_test_images_wait_for_evaluate(program, tiny_file, tmp_path, monkeypatch):
    touched = []

    class Watched:
        def __init__(self, split):
            self.split = split

        def __getattr__(self, name):
            touched.append(name)
            return getattr(self.split, name)

    def evaluate(run):
        touched.append("evaluate begins")
        original_evaluate(run)

    def load(*args, **settings):
        splits = original_load(*args, **settings)
        return dataclasses.replace(splits, test=Watched(splits.test))

    original_load, original_evaluate = data.load, Run.evaluate
    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(Run, "evaluate", evaluate)
    flags = ["--train_limit=64", "--batch_size=32", "--attack_steps=1", "--prune_epochs=1", "--finetune_epochs=1"]
    flags += ["--eval_steps=1", "--test_limit=40", f"--run_dir={tmp_path / 'run'}", "--target_sparsity=0.8"]
    ended = program("train", f"--model={tiny_file}", *flags)
    assert ended.status == 0, ended.err
    assert touched[0] == "evaluate begins" and "batches" in touched
    assert "pretrain" not in ended.out and "pruned (.tflite)" in ended.out
    assert [line["stage"] for line in metrics(tmp_path / "run")] == ["prune", "finetune"]
    original, mine = kernels(tiny_file), kernels(tmp_path / "run" / "dense.keras")
    assert all((mine[name] == original[name]).all() for name in original)
    # Once more, it is a run that begins anew, and would replace this one.
    before = contents(tmp_path / "run")
    assert "holds an earlier run" in program("train", f"--model={tiny_file}", *flags).error
    assert contents(tmp_path / "run") == before


def test_finetuning_a_run_in_a_new_directory_says_its_rates(tiny, tmp_path):
    origin = tmp_path / "origin"
    origin.mkdir()
    network = layers.prune(tiny_model(), 0.8, initial_rate=0.1, verbose=False)
    save_keras(network, origin / "scored.keras")
    run = tiny(init_from=str(origin), stages=("finetune",), target_sparsity=0.5, mode="score")
    run.run()
    rates = read(run.dir / "rates.json")
    # Those of the network, not of the flags, which cannot change it any more.
    expected = {path: row["kept"] for path, row in layers.rate_table(network).items()}
    assert counts(rates) == expected
    assert (rates["target_sparsity"], rates["mode"], rates["weights"]) == (0.8, "harp", WEIGHTS)
    assert rates["budget"] == math.floor(0.2 * WEIGHTS)
    nonzeros = {f"{name}/kernel": (kernel != 0).sum() for name, kernel in kernels(run.dir / "pruned.keras").items()}
    assert nonzeros == expected


@pytest.mark.parametrize(
    "arguments, stages, init_from",
    [
        ([], ("pretrain", "prune", "finetune", "export", "evaluate"), None),
        (["--model=m.keras"], ("prune", "finetune", "export", "evaluate"), "m.keras"),
        (["--init_from=runs/x"], ("prune", "finetune", "export", "evaluate"), "runs/x"),
        (["--init_from=runs/x", "--model=m.keras"], ("prune", "finetune", "export", "evaluate"), "runs/x"),
        (["--init_from=runs/x", "--stages=pretrain"], ("pretrain",), "runs/x"),
        (["--model=m.keras", "--stages=pretrain,prune"], ("pretrain", "prune"), None),
    ],
)
def test_the_stages_of_train(program, monkeypatch, arguments, stages, init_from):
    class Caught:
        def __init__(self, config):
            seen.append(config)

        def run(self):
            pass

    seen = []
    monkeypatch.setattr(pipeline, "Run", Caught)
    assert program("train", *arguments).status == 0
    assert (seen[0].stages, seen[0].init_from) == (stages, init_from)


def test_pretraining_a_users_file_goes_on_with_its_weights(tiny, tiny_file):
    run = tiny(init_from=None, model=str(tiny_file), stages=("pretrain",), pretrain_learning_rate=1e-6)
    assert all((kernels(tiny_file)[layer.name] == np.asarray(layer.kernel)).all()
               for layer in run.network.layers if hasattr(layer, "kernel"))  # fmt: skip
    run.run()
    after = kernels(run.dir / "dense.keras")
    for name, kernel in kernels(tiny_file).items():
        np.testing.assert_allclose(after[name], kernel, atol=1e-3)
        assert (after[name] != kernel).any()
    # The prune stage goes on with what was pretrained, not with the file.
    again = tiny(init_from=None, model=str(tiny_file), stages=("prune",))
    assert all((after[layer.name] == np.asarray(layer.kernel)).all()
               for layer in again.network.layers if hasattr(layer, "kernel"))  # fmt: skip


def test_a_function_of_the_user_makes_the_model(tiny, module_of_a_user):
    run = tiny(init_from=None, model="tiny_of_a_user:build", stages=("pretrain",), optimizer="adam", loss="natural")
    run.run()
    assert [layer.name for layer in run.network.layers][-1] == "last"
    assert metrics(run.dir)[0]["stage"] == "pretrain"
    assert set(kernels(run.dir / "dense.keras")) == {"first", "second", "last"}


def test_the_users_function_is_seeded(tiny, module_of_a_user, tmp_path):
    def first_kernel(seed, name):
        run = tiny(
            init_from=None, model="tiny_of_a_user:build", stages=("pretrain",), seed=seed, run_dir=str(tmp_path / name)
        )
        return np.asarray(run.network.layers[0].kernel)

    np.testing.assert_array_equal(first_kernel(1, "a"), first_kernel(1, "b"))
    assert (first_kernel(1, "c") != first_kernel(2, "d")).all()


# Settings reach their places -----------------------------------------------------------------------------------------


def test_score_mode_keeps_the_rates_of_a_file_that_was_read_at_the_start(tiny, tmp_path):
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"first/kernel": 0.5, "second/kernel": 0.05, "last/kernel": 0.05}))
    run = tiny(strategy=str(path), mode="score")
    path.unlink()  # hours before the prune stage begins
    run.run()
    rates = read(run.dir / "rates.json")
    assert counts(rates) == {"first/kernel": 36, "second/kernel": 58, "last/kernel": 128}
    assert (rates["mode"], rates["projected"], rates["kept"]) == ("score", False, 222)
    assert rates["kept"] <= rates["budget"] == math.floor(0.1 * WEIGHTS)
    scored = keras.models.load_model(run.dir / "scored.keras")
    initial = layers.prune(tiny_model(), 0.9, mode="score", verbose=False)
    for a, b in zip(layers.pruned_kernels(scored), layers.pruned_kernels(initial), strict=True):
        assert (np.asarray(a.scores.scores) != np.asarray(b.scores.scores)).any()


def test_rate_mode_keeps_its_initial_scores(tiny):
    run = tiny(mode="rate")
    run.run()
    assert read(run.dir / "rates.json")["mode"] == "rate"
    scored = keras.models.load_model(run.dir / "scored.keras")
    initial = layers.prune(tiny_model(), 0.9, mode="rate", verbose=False)
    for a, b in zip(layers.pruned_kernels(scored), layers.pruned_kernels(initial), strict=True):
        np.testing.assert_array_equal(np.asarray(a.scores.scores), np.asarray(b.scores.scores))
        assert float(a.scores.rate()) != float(b.scores.rate())


@pytest.mark.parametrize("loss", ["natural", "trades", "mart"])
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


def test_settings_of_the_attacks(tiny):
    run = tiny(eps=0.2, norm="l2", attack_steps=4, eval_steps=7)
    assert (run.attack.eps, run.attack.norm, run.attack.steps, run.attack.step_size) == (0.2, "l2", 4, 0.05)
    (name, final), = run.final_attacks.items()  # fmt: skip
    assert name == "pgd7"
    assert (final.eps, final.norm, final.steps) == (0.2, "l2", 7) and final.step_size == pytest.approx(0.02)
    run = tiny(attack_step_size=0.0, eval_step_size=0.0)
    assert run.attack.step_size == 0.0 and run.final_attacks["pgd1"].step_size == 0.0


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
    files = ("pipeline.py", "pruning.py", "measure.py", "run_dir.py", "train.py", "config.py")
    sources = "".join((folder / name).read_text() for name in files)
    for name in RunConfig.__dataclass_fields__:
        assert any(f"{owner}.{name}" in sources for owner in ("config", "c", "self")), name


# The run directory ---------------------------------------------------------------------------------------------------


@pytest.fixture
def idle(monkeypatch):
    """Training that does nothing, for what happens before it."""
    for stage in ("_pretrain", "_prune", "_finetune"):
        monkeypatch.setattr(Run, stage, lambda self: None)


@pytest.mark.parametrize("stages", [["--stages=pretrain"], ["--stages=prune"], ["--stages=finetune"], []])
def test_an_earlier_run_is_not_touched_without_overwrite(program, copy, small_flags, stages):
    before = contents(copy)
    line = program("train", f"--flagfile={small_flags}", f"--run_dir={copy}", *stages).error
    assert "holds an earlier run" in line and "--overwrite" in line and str(copy) in line
    assert contents(copy) == before


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "results.json", "dense.keras", "plots/loss.png"])
def test_any_file_of_a_run_makes_it_an_earlier_run(tiny, tmp_path, name):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(HarpError, match="holds an earlier run.*--overwrite"):
        tiny()


def test_files_of_others_do_not(tiny, idle, tmp_path):
    (tmp_path / "run" / "plots").mkdir(parents=True)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    tiny().run()
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_overwrite_removes_only_what_a_run_wrote(tiny, idle, copy):
    foreign = {"notes.txt": "a", "plots/mine.txt": "b", "tensorboard/pretrain/deeper/mine": "c", "dense.keras.bak": "d"}
    for name, text in foreign.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(text)
    tiny(run_dir=str(copy), overwrite=True).run()
    assert set(contents(copy)) == {*foreign, "config.json", "report.html"}
    assert all((copy / name).read_text() == text for name, text in foreign.items())
    assert read(copy / "config.json")["flags"]["init_from"].endswith("tiny.keras")


@pytest.mark.parametrize(
    "first, removed, stages_left",
    [
        ("prune", {"scored.keras", "rates.json", "pruned.keras", "model_sparse.tflite", "results.json"}, ["pretrain"]),
        ("finetune", {"model_sparse.tflite", "results.json"}, ["pretrain", "prune"]),
    ],
)
def test_overwrite_of_a_later_stage_keeps_what_it_builds_upon(tiny, idle, copy, first, removed, stages_left):
    before = contents(copy)
    tiny(run_dir=str(copy), init_from=None, stages=(first,), overwrite=True, train_limit=256).run()
    after = contents(copy)
    gone = {name for name in set(before) - set(after) if not name.startswith("tensorboard")}
    assert gone == removed
    assert after["dense.keras"] == before["dense.keras"] and after["model.tflite"] == before["model.tflite"]
    assert {name.split("/")[1] for name in after if name.startswith("tensorboard")} == set(stages_left)
    kept = [line for line in before["metrics.jsonl"].splitlines() if json.loads(line)["stage"] in stages_left]
    assert after["metrics.jsonl"].splitlines() == kept


def test_a_half_line_of_a_killed_run_is_dropped(tiny, idle, copy):
    for name in ("results.json", "model_sparse.tflite"):
        (copy / name).unlink()
    shutil.rmtree(copy / "tensorboard" / "finetune")
    whole = (copy / "metrics.jsonl").read_bytes()
    pruned = b"".join(line for line in whole.splitlines(keepends=True) if b'"finetune"' not in line)
    (copy / "metrics.jsonl").write_bytes(pruned + b'{"stage": "finetune", "ep')
    tiny(run_dir=str(copy), init_from=None, stages=("finetune",)).run()
    assert (copy / "metrics.jsonl").read_bytes() == pruned


@pytest.mark.parametrize("stage, name", [("prune", "dense.keras"), ("finetune", "scored.keras")])
def test_overwrite_does_not_remove_what_the_run_starts_from(tiny, idle, copy, stage, name):
    before = contents(copy)
    for origin in (copy, copy / name, os.path.relpath(copy / name)):
        with pytest.raises(HarpError, match=f"--overwrite would remove .*{name}.*leave out --init_from"):
            tiny(run_dir=str(copy), init_from=str(origin), stages=(stage,), overwrite=True)
    assert contents(copy) == before


def test_a_mistake_is_found_before_overwrite_removes_anything(tiny, copy):
    before = contents(copy)
    for mistake in ({"batch_size": 10_000}, {"dataset": "npz:none.npz"}, {"strategy": "none.json"}, {"model": "none"}):
        with pytest.raises(HarpError):
            tiny(run_dir=str(copy), **{"init_from": None, "stages": ("pretrain", "prune"), **mistake}, overwrite=True)
    assert contents(copy) == before


@pytest.mark.slow
def test_a_network_whose_numbers_are_no_numbers_stops(tiny):
    run = tiny(prune_learning_rate=1e30, loss="natural", prune_epochs=2)
    with pytest.raises(HarpError, match="loss became (nan|inf).*between steps"):
        run.run()


# Evaluate and export on their own ------------------------------------------------------------------------------------


def test_evaluate_adds_an_attack_and_loses_none(program, copy):
    before = contents(copy)
    old = read(copy / "results.json")
    ended = program("evaluate", f"--target={copy}", "--eval_steps=2", "--robust_limit=40")
    assert ended.status == 0, ended.err
    new = read(copy / "results.json")
    assert list(new) == list(old)
    for key in old:
        assert new[key]["robust_accuracy"]["pgd3"] == old[key]["robust_accuracy"]["pgd3"]
        assert set(new[key]["robust_accuracy"]) == {"pgd2", "pgd3"}
        assert new[key]["n_robust"] == 40
        same = set(old[key]) - {"robust_accuracy", "n_robust", "attacks"}
        assert {name: new[key][name] for name in same} == {name: old[key][name] for name in same}
    after = contents(copy)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"results.json", "report.html", "plots/adversarial_examples.png"}
    assert "PGD-2" in ended.out and "PGD-3" in ended.out and "pruned (.tflite)" in ended.out


def test_evaluate_again_gives_the_same_figures_and_never_overwrites(program, copy):
    config = read(copy / "config.json")
    config["flags"]["overwrite"] = True  # as after `train --overwrite`
    (copy / "config.json").write_text(json.dumps(config))
    before = contents(copy)
    (copy / "results.json").unlink()
    assert program("evaluate", f"--target={copy}").status == 0
    after = contents(copy)
    assert set(after) == set(before)
    assert {name for name in before if before[name] != after[name]} <= {"report.html"}


@pytest.mark.parametrize("name", ["dense", "scored"])
def test_evaluate_a_file(program, small_run, tmp_path, name):
    path = shutil.copy(small_run[0] / f"{name}.keras", tmp_path)
    flags = ["--test_limit=100", "--eps=0.1", "--eval_steps=3", "--train_limit=256", "--seed=7"]
    ended = program("evaluate", f"--target={path}", *flags)
    assert ended.status == 0, ended.err
    assert os.listdir(tmp_path) == [f"{name}.keras"]
    if name != "scored":  # whose weights are those before finetuning
        figures = read(small_run[0] / "results.json")[name]
        assert f"{100 * figures['natural_accuracy']:.1f}" in ended.out
        assert f"{100 * figures['robust_accuracy']['pgd3']:.1f}" in ended.out
    assert ("95." in ended.out) == (name != "dense")


def test_an_evaluation_at_other_radii_leaves_the_figures_of_the_runs_own(program, copy):
    old = read(copy / "results.json")
    ended = program("evaluate", f"--target={copy}", "--eps_list=0.02,0.2", "--eps=0.3")
    assert ended.status == 0, ended.err
    new = read(copy / "results.json")
    for key in old:
        for name in ("robust_accuracy", "n_robust", "natural_accuracy"):
            assert new[key][name] == old[key][name]
        entries = new[key]["attacks"]["pgd3"]
        assert [(e["eps"], e["n"]) for e in entries] == [(0.1, 100), (0.02, 100), (0.2, 100)]
        curve = new[key]["security_curve"]["pgd3"]
        assert curve["eps"] == [0.0, 0.02, 0.1, 0.2]
        assert curve["robust_accuracy"][2] == old[key]["robust_accuracy"]["pgd3"]
        assert curve["robust_accuracy"][0] == old[key]["natural_accuracy"]
        assert curve["robust_accuracy"][1] >= curve["robust_accuracy"][3]
    assert not (copy / "evaluation").exists()


def test_attacks_by_name_join_the_results_and_every_image_is_kept_on_request(program, copy, tmp_path):
    folder = tmp_path / "kept"
    flags = ["--attacks=apgd-ce3+square10,fmn5", "--robust_limit=30", f"--save_adversarial={folder}"]
    ended = program("evaluate", f"--target={copy}", *flags)
    assert ended.status == 0, ended.err
    for key, figures in read(copy / "results.json").items():
        assert list(figures["robust_accuracy"]) == ["pgd3", "apgd_ce3+square10", "fmn5"]
        (cascade,), (fmn,) = figures["attacks"]["apgd_ce3+square10"], figures["attacks"]["fmn5"]
        assert list(cascade["stages"]) == ["apgd_ce3", "square10"]
        assert cascade["stages"]["square10"] == cascade["robust_accuracy"] <= cascade["stages"]["apgd_ce3"]
        assert cascade["n"] == fmn["n"] == 30 and cascade["ci95"][0] < cascade["robust_accuracy"] < cascade["ci95"][1]
        assert "too_few_samples" in [check["check"] for check in cascade["checks"]]
        assert ("curve" in fmn) == (key in ("dense", "pruned"))
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{m}_{a}_linf_0.1.npz" for m in ("dense", "pruned") for a in ("apgd_ce3+square10", "fmn5")}
    with np.load(folder / "pruned_apgd_ce3+square10_linf_0.1.npz", allow_pickle=False) as file:
        assert file["images"].shape == file["adversarial"].shape == (30, 8, 8, 1)
        assert 0 < np.abs(file["adversarial"] - file["images"]).max() <= 0.1 + 1e-6
    assert "WARNING (too_few_samples)" in ended.out and "APGD-CE-3 + Square-10" in ended.out


def test_an_evaluation_that_was_interrupted_goes_on(program, copy, monkeypatch):
    flags = [f"--target={copy}", "--attacks=square20", "--robust_limit=40"]
    monkeypatch.setattr("harp_tf.measure._BATCH", 16)
    original, calls = State.save, []

    def save(state, number, record):
        original(state, number, record)
        calls.append(number)
        if len(calls) == 2:
            raise HarpError("as if killed")

    monkeypatch.setattr(State, "save", save)
    before = read(copy / "results.json")
    assert "as if killed" in program("evaluate", *flags).error
    assert read(copy / "results.json") == before
    ended = program("evaluate", *flags)
    assert ended.status == 0 and "goes on after 2 batches" in ended.out
    resumed = read(copy / "results.json")
    assert calls[:3] == [0, 1, 2]
    (copy / "results.json").write_text(json.dumps(before))
    assert program("evaluate", *flags).status == 0
    assert read(copy / "results.json") == resumed


def test_a_tflite_file_is_attacked_without_gradients_and_by_its_twins_images(program, small_run, tmp_path):
    data = ["--test_limit=60", "--eps=0.1", "--train_limit=256", "--seed=7"]
    alone = shutil.copy(small_run[0] / "model.tflite", tmp_path / "alone.tflite")
    ended = program("evaluate", f"--target={alone}", "--attacks=pgd3,square20", *data, f"--output={tmp_path}/f.json")
    assert ended.status == 0, ended.err
    assert "of pgd3, square20 only square20 can attack it" in ended.out
    figures = read(tmp_path / "f.json")["alone"]
    assert list(figures["robust_accuracy"]) == ["square20"]
    assert figures["robust_accuracy"]["square20"] <= figures["natural_accuracy"]
    assert "cannot attack it" in program("evaluate", f"--target={alone}", "--attacks=pgd3", *data).error
    # Beside its Keras twin, and joined to what is there.
    shutil.copy(small_run[0] / "dense.keras", tmp_path / "alone.keras")
    ended = program("evaluate", f"--target={alone}", "--attacks=pgd3,square30", *data, f"--output={tmp_path}/f.json")
    assert ended.status == 0, ended.err
    both = read(tmp_path / "f.json")["alone"]
    assert set(both["robust_accuracy"]) == {"pgd3", "square20", "square30"}
    assert both["attacks"]["pgd3"][0]["crafted_on"] == "alone.keras"
    assert "crafted_on" not in both["attacks"]["square30"][0]
    assert both["robust_accuracy"]["square20"] == figures["robust_accuracy"]["square20"]


def test_what_an_evaluation_cannot_use_is_refused(program, copy, tmp_path):
    before = contents(copy)
    assert "Unknown attack 'deepfool'" in program("evaluate", f"--target={copy}", "--attacks=deepfool").error
    assert "eps_list must be radii" in program("evaluate", f"--target={copy}", "--eps_list=0.1,big").error
    assert "eps_list must be at most 1" in program("evaluate", f"--target={copy}", "--eps_list=8").error
    assert "results.json" in program("evaluate", f"--target={copy}", "--output=x.json").error
    assert contents(copy) == before
    (tmp_path / "other.json").write_text('{"a": 1}')
    line = program("evaluate", f"--target={copy / 'dense.keras'}", f"--output={tmp_path / 'other.json'}").error
    assert "does not hold figures of earlier evaluations" in line
    assert (tmp_path / "other.json").read_text() == '{"a": 1}'


def test_evaluate_a_file_that_is_no_model_for_these_images(program, tmp_path):
    (tmp_path / "a.keras").write_bytes(b"no")
    assert "could not be read as a Keras 3 model" in program("evaluate", f"--target={tmp_path / 'a.keras'}").error
    other = keras.Sequential([keras.Input((4, 4, 3)), keras_layers.Flatten(), keras_layers.Dense(10)])
    other.save(tmp_path / "b.keras")
    assert "the data set has images of shape" in program("evaluate", f"--target={tmp_path / 'b.keras'}").error


@pytest.mark.parametrize(
    "content", ["{", "[]", "3", '{"dense": 1}', '{"dense": {}}', '{"dense": {"robust_accuracy": 1}}', "[" * 100_000]
)
def test_damaged_results_are_not_lost(program, copy, monkeypatch, content):
    monkeypatch.setattr(Measurement, "of_keras", lambda *args: pytest.fail("found only after the evaluation"))
    (copy / "results.json").write_text(content)
    before = contents(copy)
    line = program("evaluate", f"--target={copy}").error
    assert str(copy / "results.json") in line and "Remove" in line
    assert contents(copy) == before


def test_export_gives_the_same_files_again(program, copy):
    before = contents(copy)
    for name in ("model.tflite", "model_sparse.tflite"):
        (copy / name).unlink()
    ended = program("export", f"--target={copy}")
    assert ended.status == 0, ended.err
    after = contents(copy)
    assert {name for name in before if before[name] != after[name]} <= {"report.html"}
    assert ended.out.count("of the Keras model") == 2


def test_export_a_run_without_models(program, copy):
    for path in copy.glob("*.keras"):
        path.unlink()
    for name in ("export", "evaluate"):
        assert "neither dense.keras nor pruned.keras" in program(name, f"--target={copy}").error


def test_export_strips_a_file_with_scores(program, small_run, tmp_path):
    path = shutil.copy(small_run[0] / "scored.keras", tmp_path)
    ended = program("export", f"--target={path}")
    assert ended.status == 0, ended.err
    kept = counts(read(small_run[0] / "rates.json"))
    written = tmp_path / "scored.tflite"
    assert {kernel.name: kernel.nonzero for kernel in deploy.kernel_nonzeros(written)} == kept
    assert str(written) in ended.out
    assert sorted(os.listdir(tmp_path)) == ["scored.keras", "scored.tflite"]


def test_export_where_and_how(program, small_run, tmp_path):
    pruned = small_run[0] / "pruned.keras"
    dense = tmp_path / "dense.tflite"
    assert program("export", f"--target={pruned}", f"--output={dense}", "--nosparse").status == 0
    assert not any(kernel.sparse for kernel in deploy.kernel_nonzeros(dense))
    sparse = tmp_path / "sparse.tflite"
    assert program("export", f"--target={pruned}", f"--output={sparse}").status == 0
    assert any(kernel.sparse for kernel in deploy.kernel_nonzeros(sparse))
    assert sparse.stat().st_size < dense.stat().st_size
    assert "existing folder" in program("export", f"--target={pruned}", f"--output={tmp_path}/no/x.tflite").error
    (tmp_path / "bad.keras").write_bytes(b"no")
    assert "could not be read as a Keras 3 model" in program("export", f"--target={tmp_path / 'bad.keras'}").error
    assert not (tmp_path / "bad.tflite").exists()
