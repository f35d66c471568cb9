"""A run in its directory: its budgets, and what it starts from."""

import dataclasses
import math

import keras
import numpy as np
import pytest

from harp_tf import data, deploy, layers, pipeline
from harp_tf.files import save_keras
from harp_tf.pipeline import Run
from tests.runs import WEIGHTS, contents, counts, kernels, metrics, read, tiny_model

pytestmark = pytest.mark.usefixtures("no_plots")


# Budgets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sparsity", [0.99, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.9, 0.95, 0.995, 0.999))]
)
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


def test_a_network_without_a_path_from_image_to_logits_is_named(tiny, lines):
    tiny(method="random", target_sparsity=0.999, stages=("prune",)).run()  # a weight a layer
    (line,) = [line for line in lines if "cut in two" in line]
    assert line.startswith("warning: the network is cut in two at second, ") and "--rate_bounds=second=0.1:" in line


# Where a run starts from -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_a_run_directory_with_its_learned_rates(tiny, small_run):
    before = contents(small_run[0])
    learned = small_run[0] / "rates.json"
    run = tiny(init_from=str(small_run[0]), strategy=str(learned), method="hydra", target_sparsity=0.95)
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
            if name not in ("num_examples", "checksum"):  # what the record says of them
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
    # Once more, nothing is left to do.
    before = contents(tmp_path / "run")
    ended = program("train", f"--model={tiny_file}", *flags)
    assert ended.status == 0 and "Nothing is left to do" in ended.out and "pruned (.tflite)" in ended.out
    after = contents(tmp_path / "run")
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"config.json", "report.html"} and set(before) == set(after)


def test_finetuning_a_run_in_a_new_directory_says_its_rates(tiny, tmp_path):
    origin = tmp_path / "origin"
    origin.mkdir()
    network = layers.prune(tiny_model(), 0.8, initial_rate=0.1, verbose=False)
    save_keras(network, origin / "scored.keras")
    (origin / "rates.json").write_text('{"method": "harp", "strategy": "erk", "layers": {}}')
    run = tiny(init_from=str(origin), stages=("finetune",), target_sparsity=0.5, method="hydra")
    run.run()
    rates = read(run.dir / "rates.json")
    # Those of the network, not of the flags, which cannot change it any more.
    expected = {path: row["kept"] for path, row in layers.rate_table(network).items()}
    assert counts(rates) == expected
    assert (rates["target_sparsity"], rates["mode"], rates["weights"]) == (0.8, "harp", WEIGHTS)
    assert (rates["method"], rates["strategy"]) == ("harp", "erk")
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
