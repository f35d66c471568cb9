"""One command on real images: everything that its run directory must hold, and that it all fits together."""

import json
import math
import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from harp_tf import data, deploy, layers
from harp_tf.answers import unpacked
from harp_tf.config import RunConfig

WEIGHTS = 14_916
BUDGET = math.floor(0.05 * WEIGHTS)
KERNELS = ["conv1/kernel", "conv2/kernel", "conv3/kernel", "conv4/kernel", "dense1/kernel", "logits/kernel"]


@pytest.fixture(scope="module")
def run_dir(small_run):
    return small_run[0]


@pytest.fixture(scope="module")
def rates(run_dir):
    return json.loads((run_dir / "rates.json").read_text())


@pytest.fixture(scope="module")
def results(run_dir):
    return json.loads((run_dir / "results.json").read_text())


@pytest.fixture(scope="module")
def metrics(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def test_data():
    return data.load("digits", seed=7, train_limit=256, test_limit=100).test


def test_every_file_is_there_and_no_other(run_dir):
    found = {str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()}
    plots = {name for name in found if re.fullmatch(r"plots/[a-z_]+\.(png|svg)", name)}
    events = {name for name in found if re.fullmatch(r"tensorboard/(pretrain|prune|finetune)/events\.out\..*", name)}
    assert len(plots) >= 6 and len(events) == 3
    assert found - plots - events == {
        "config.json", "metrics.jsonl", "rates.json", "results.json", "report.html",
        "dense.keras", "scored.keras", "pruned.keras", "model.tflite", "model_sparse.tflite",
    }  # fmt: skip
    for name in plots:
        start = b"\x89PNG\r\n\x1a\n" if name.endswith("png") else b"<?xml"
        assert (run_dir / name).read_bytes().startswith(start)


def test_config_says_flags_seed_versions_and_machine(run_dir):
    config = json.loads((run_dir / "config.json").read_text())
    assert set(config) == {"flags", "seed", "data", "versions", "machine", "environment", "finished"}
    assert list(config["finished"]) == ["pretrain", "prune", "finetune", "export", "evaluate"]
    flags = {k: tuple(v) if isinstance(v, list) else v for k, v in config["flags"].items()}
    assert set(flags) == set(RunConfig.__dataclass_fields__)
    resolved = RunConfig(**flags)
    assert (resolved.seed, resolved.target_sparsity, resolved.run_dir) == (7, 0.95, str(run_dir))
    assert config["seed"] == 7
    assert config["data"]["test"]["images"] > 0 and len(config["data"]["train"]["sha256"]) == 64
    assert config["versions"]["keras"] == keras.__version__
    assert config["versions"]["python"] == sys.version.split()[0]
    packages = {"tensorflow", "keras", "ai-edge-litert", "numpy", "tf_keras", "tensorflow-model-optimization"}
    assert set(config["versions"]) == {"python", *packages}
    assert set(config["machine"]) == {"system", "processor", "cores"} and config["machine"]["cores"] >= 1


def test_metrics_have_a_line_per_epoch(metrics):
    expected = [("pretrain", 0), ("pretrain", 1), ("pretrain", 2), ("prune", 0), ("prune", 1), ("prune", 2)]
    assert [(m["stage"], m["epoch"]) for m in metrics] == [*expected, ("finetune", 0), ("finetune", 1)]
    always = {"loss", "natural_loss", "robust_loss", "natural_accuracy", "adversarial_accuracy", "learning_rate"}
    always |= {"val_natural_accuracy", "val_adversarial_accuracy"}
    for line in metrics:
        masked = line["stage"] != "pretrain"
        wanted = {"stage", "epoch", "seconds", "logs"} | ({"rates"} if line["stage"] == "prune" else set())
        assert wanted <= set(line) <= wanted | {"warnings"}
        assert all(warning["text"] for warning in line.get("warnings", []))
        assert always <= set(line["logs"]) and line["seconds"] > 0
        assert ({"hw_loss", "gamma", "rate"} <= set(line["logs"])) == masked
        assert all(isinstance(value, float) and math.isfinite(value) for value in line["logs"].values())
        assert all(0 <= value <= 1 for name, value in line["logs"].items() if "accuracy" in name)
        if line["stage"] == "prune":
            assert list(line["rates"]) == KERNELS
            assert line["logs"]["loss"] == pytest.approx(
                line["logs"]["robust_loss"] + line["logs"]["gamma"] * line["logs"]["hw_loss"], rel=0.05
            )


def test_gamma_rises_by_epoch_and_the_learning_rate_falls_to_its_end(metrics):
    prune = [m["logs"] for m in metrics if m["stage"] == "prune"]
    assert [logs["gamma"] for logs in prune] == pytest.approx([0.3, 0.6, 0.9])
    # Three epochs of four steps each: a cosine from step 0 to step 11.
    cosine = [0.1 * 0.5 * (1 + math.cos(math.pi * step / 11)) for step in (0, 4, 8)]
    for stage in ("pretrain", "prune"):
        rates = [m["logs"]["learning_rate"] for m in metrics if m["stage"] == stage]
        assert rates == pytest.approx(cosine, rel=1e-5)
    finetune = [m["logs"]["learning_rate"] for m in metrics if m["stage"] == "finetune"]
    assert finetune[0] == pytest.approx(0.01, rel=1e-5)


def test_tensorboard_shows_scalars_and_rates(run_dir, metrics):
    events = EventAccumulator(str(run_dir / "tensorboard" / "prune"), size_guidance={"tensors": 0})
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {"loss", "gamma", "val_adversarial_accuracy", "rates"} | {f"rate/{path}" for path in KERNELS} <= tags
    last = events.Tensors("rate/conv4/kernel")[-1]
    assert last.step == 2
    assert float(tf.make_ndarray(last.tensor_proto)) == pytest.approx(metrics[5]["rates"]["conv4/kernel"])


def test_rates_keep_the_promise(rates):
    counts = {key: rates[key] for key in ("weights", "kept", "budget", "target_sparsity")}
    assert counts == {"weights": WEIGHTS, "kept": counts["kept"], "budget": BUDGET, "target_sparsity": 0.95}
    assert (rates["granularity"], rates["method"], rates["strategy"]) == ("weight", "harp", "uniform")
    assert isinstance(rates["projected"], bool)
    assert list(rates["layers"]) == KERNELS
    assert sum(row["weights"] for row in rates["layers"].values()) == WEIGHTS
    assert sum(row["kept"] for row in rates["layers"].values()) == rates["kept"] <= BUDGET
    for row in rates["layers"].values():
        assert set(row) == {"weights", "kept", "rate"}
        assert 1 <= row["kept"] <= row["weights"] and abs(row["rate"] * row["weights"] - row["kept"]) < 1


def test_results_have_their_schema(run_dir, results):
    assert list(results) == ["dense", "pruned", "tflite", "tflite_sparse"]
    file = {
        "dense": "dense.keras",
        "pruned": "pruned.keras",
        "tflite": "model.tflite",
        "tflite_sparse": "model_sparse.tflite",
    }
    for key, figures in results.items():
        figures = {**figures}
        if key in ("tflite", "tflite_sparse"):
            assert 0 <= figures.pop("max_logit_difference") < 1e-3
        assert set(figures) == {
            "natural_accuracy", "balanced_accuracy", "robust_accuracy", "n_test", "n_robust",
            "sparsity", "nonzero", "parameters", "file_bytes", "gzip_bytes", "sha256",
            "ci95", "per_class", "right", "attacks", "security_curve",
        }  # fmt: skip
        assert set(figures["robust_accuracy"]) == set(figures["attacks"]) == {"pgd3"}
        (entry,) = figures["attacks"]["pgd3"]
        assert (entry["norm"], entry["eps"], entry["n"], entry["seed"]) == ("linf", 0.1, 100, 7)
        assert entry["robust_accuracy"] == figures["robust_accuracy"]["pgd3"]
        assert ("crafted_on" in entry) == (key not in ("dense", "pruned")) and isinstance(entry["checks"], list)
        for low, share, high in (
            (figures["ci95"][0], figures["natural_accuracy"], figures["ci95"][1]),
            (entry["ci95"][0], entry["robust_accuracy"], entry["ci95"][1]),
        ):
            assert 0 <= low <= share <= high <= 1
        assert len(figures["per_class"]) == len(entry["per_class"]) == 10
        for accuracy in (figures["natural_accuracy"], figures["balanced_accuracy"], figures["robust_accuracy"]["pgd3"]):
            assert 0 <= accuracy <= 1
        assert figures["robust_accuracy"]["pgd3"] <= figures["natural_accuracy"]
        natural, robust = unpacked(figures["right"], 100), unpacked(entry["right"], 100)
        assert natural.mean() == figures["natural_accuracy"] and robust.mean() == entry["robust_accuracy"]
        assert not (robust & ~natural).any()
        assert figures["n_test"] == figures["n_robust"] == 100
        assert figures["parameters"] == WEIGHTS
        assert figures["sparsity"] == pytest.approx(1 - figures["nonzero"] / WEIGHTS)
        assert figures["file_bytes"] == (run_dir / file[key]).stat().st_size
        assert 0 < figures["gzip_bytes"] < figures["file_bytes"]
    for dense in ("dense", "tflite"):
        assert results[dense]["nonzero"] == WEIGHTS
    for pruned in ("pruned", "tflite_sparse"):
        assert results[pruned]["nonzero"] <= BUDGET and results[pruned]["sparsity"] >= 0.95
    assert results["tflite_sparse"]["file_bytes"] < results["tflite"]["file_bytes"] / 2
    # What was learned in a few seconds is better than guessing, so the figures are not those of a broken model.
    assert results["dense"]["natural_accuracy"] > 0.3


def test_accuracies_are_those_of_the_models_in_the_directory(run_dir, results, test_data):
    images, labels = test_data.arrays()
    for name in ("dense", "pruned"):
        logits = keras.models.load_model(run_dir / f"{name}.keras").predict(images, verbose=0)
        assert results[name]["natural_accuracy"] == (logits.argmax(-1) == labels).mean()


def test_nonzeros_agree_layer_by_layer_from_the_trained_graph_to_the_file(run_dir, rates, results):
    kept = {path: row["kept"] for path, row in rates["layers"].items()}
    trained = keras.models.load_model(run_dir / "scored.keras")
    assert {path: row["kept"] for path, row in layers.rate_table(trained).items()} == kept
    assert {path: nonzero for path, (_, nonzero) in layers.kernel_nonzeros(trained).items()} == kept
    pruned = keras.models.load_model(run_dir / "pruned.keras")
    assert {path: nonzero for path, (_, nonzero) in layers.kernel_nonzeros(pruned).items()} == kept
    sparse = {kernel.name: kernel.nonzero for kernel in deploy.kernel_nonzeros(run_dir / "model_sparse.tflite")}
    assert sparse == kept
    assert results["pruned"]["nonzero"] == results["tflite_sparse"]["nonzero"] == sum(kept.values())


def test_finetuning_kept_the_masks_and_changed_the_weights(run_dir):
    scored = layers.strip(keras.models.load_model(run_dir / "scored.keras"))
    final = keras.models.load_model(run_dir / "pruned.keras")
    for path in KERNELS:
        before, after = (np.asarray(model.get_layer(path.split("/")[0]).kernel) for model in (scored, final))
        np.testing.assert_array_equal(before != 0, after != 0)
        assert (before != after).any()


def test_the_prune_stage_left_the_dense_weights_alone(run_dir):
    dense = keras.models.load_model(run_dir / "dense.keras")
    scored = keras.models.load_model(run_dir / "scored.keras")
    for kernel in layers.pruned_kernels(scored):
        original = dense.get_layer(kernel.layer.name).kernel
        np.testing.assert_array_equal(np.asarray(kernel.variable), np.asarray(original))


def test_logits_of_the_files_are_those_of_the_keras_models(run_dir, test_data):
    images, _ = test_data.arrays()
    for model, file in (("dense.keras", "model.tflite"), ("pruned.keras", "model_sparse.tflite")):
        wanted = keras.models.load_model(run_dir / model).predict(images, verbose=0)
        assert wanted.std() > 0.05
        received = deploy.TFLiteClassifier(run_dir / file).logits(images)
        np.testing.assert_allclose(received, wanted, rtol=0, atol=1e-4)


def test_the_pruned_model_needs_nothing_of_harp_tf(run_dir, new_process, tmp_path, test_data):
    images, _ = test_data.arrays()
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, keras, numpy as np\n"
        "sys.modules['harp_tf'] = None  # importing it fails\n"
        f"model = keras.models.load_model({str(run_dir / 'pruned.keras')!r})\n"
        "np.save('logits.npy', model.predict(np.load('images.npy'), verbose=0))\n"
    )
    ended = new_process("-c", code, cwd=tmp_path, path="")
    assert ended.status == 0, ended.err
    wanted = keras.models.load_model(run_dir / "pruned.keras").predict(images, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), wanted, rtol=0, atol=1e-6)


def test_what_the_terminal_shows_without_a_terminal(small_run, run_dir):
    out = small_run[1].out
    assert "\r" not in out and "\b" not in out, "progress bars do not belong into a log"
    for line in ("== pretrain ==", "== prune ==", "== finetune ==", "== export ==", "== evaluate =="):
        assert out.count(line) == 1
    assert len(re.findall(r"^(pretrain|prune|finetune) \d/\d  loss .* s$", out, re.M)) == 8
    for row in ("dense (Keras)", "pruned (Keras)", "dense (.tflite)", "pruned (.tflite)"):
        assert len(re.findall(rf"^{re.escape(row)} .* [kM]?B$", out, re.M)) == 1
    assert re.search(r"^9\d\.\d % of the weights removed: natural", out, re.M)
    assert f"Report: {run_dir / 'report.html'}" in out
    assert "Traceback" not in small_run[1].err
