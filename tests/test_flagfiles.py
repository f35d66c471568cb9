"""Every flagfile says what it is for, is legal, and its model fits the images of its data set."""

import dataclasses
import functools
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from absl import flags

from harp_tf import attacks, cli_flags, compare, comparison, layers, losses, models, training
from harp_tf.config import STAGES, RunConfig

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "flags").rglob("*") if path.is_file())
COMPARISONS = [name for name in FILES if name.startswith("flags/compare_")]
EXPERIMENTS = [name for name in FILES if not name.startswith("flags/base/") and name not in COMPARISONS]

# Shape of an image and number of classes of the data sets that the flagfiles name; they need not be here.
DATASETS = {
    "digits": ((8, 8, 1), 10),
    "idx:/usr/share/datasets/fashion-mnist": ((28, 28, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "svhn_cropped": ((32, 32, 3), 10),
    "imagenet2012": ((224, 224, 3), 1000),
}


@pytest.fixture
def parse(fresh_flags, monkeypatch):
    """Reads a flagfile as `harp_tf.train`, or `harp_tf.compare`, does from the root of the repository."""
    monkeypatch.chdir(ROOT)

    def read(name: str) -> RunConfig:
        fresh_flags()
        cli_flags.define_settings()
        if name in COMPARISONS:
            compare.define_axes()
        assert flags.FLAGS(["train", f"--flagfile={name}"]) == ["train"]
        return cli_flags.read_settings()

    return read


def header(name: str) -> dict[str, str]:
    """The "# Title: text" lines at the top of a flagfile; a line that continues is indented."""
    found: dict[str, str] = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        titled = re.fullmatch(r"# (\w+): +(\S.*)", line)
        if titled:
            title = titled[1]
            found[title] = titled[2]
        else:
            assert re.fullmatch(r"#  +\S.*", line), f"{name}: {line!r} neither has a title nor continues one"
            found[title] += " " + line[1:].strip()
    return found


def test_only_flagfiles_lie_there():
    assert len(EXPERIMENTS) > 50 and len(COMPARISONS) > 2 and all(name.endswith(".flags") for name in FILES)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_parses_and_is_legal(name, parse):
    assert parse(name).dataset in DATASETS, "add the data set's shape and classes to this test"


@pytest.mark.parametrize("name", EXPERIMENTS + COMPARISONS)
def test_the_header_tells_purpose_command_time_and_result(name):
    found = header(name)
    assert list(found) in (["Purpose", "Command", "Time", "Result"], ["Purpose", "Command", "Needs", "Time", "Result"])
    program = "compare" if name in COMPARISONS else "train"
    assert re.fullmatch(rf"python -m harp_tf\.{program} --flagfile={re.escape(name)}( --[\w=./]+)*", found["Command"])
    assert all(len(text) > 10 for text in found.values())


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("flags/base/")])
def test_what_is_shared_says_what_it_is_and_names_no_run(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.match(r"(# \S.*\n)+--", text)
    assert "--run_dir" not in text and "--init_from" not in text


def test_nothing_is_set_twice_in_one_file():
    for name in FILES:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        names = [line.split("=")[0] for line in lines if line.startswith("--")]
        assert len(names) == len(set(names)), name


def test_a_base_file_is_used():
    texts = "".join((ROOT / name).read_text(encoding="utf-8") for name in FILES)
    for name in FILES:
        if name.startswith("flags/base/"):
            assert f"--flagfile={name}\n" in texts, name


def test_experiments_do_not_share_a_run_directory_and_start_from_a_run_that_fits(parse):
    settings = {name: parse(name) for name in EXPERIMENTS}
    by_directory = {config.run_dir: config for config in settings.values()}
    assert len(by_directory) == len(EXPERIMENTS)
    for name, config in settings.items():
        assert config.run_dir == f"runs/{name.removeprefix('flags/').removesuffix('.flags')}"
        if config.init_from is None:
            assert config.stages == STAGES, name
            continue
        origin = by_directory[config.init_from]
        assert origin.init_from is None, f"{name} starts from a run that has no dense model of its own"
        same = ["dataset", "model", "width", "loss", "norm", "eps", "seed", "validation_fraction", "train_limit"]
        assert [getattr(config, key) for key in same] == [getattr(origin, key) for key in same], name


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_comparison_is_legal_and_has_a_directory(name, parse):
    config = parse(name)
    if config.init_from:  # made by another comparison of this folder, on the user's machine
        origin = parse("flags/compare_fashion_mnist.flags")
        assert config.init_from == f"{origin.run_dir}/cells/dense_pgd"
        config = dataclasses.replace(config, init_from=None)
    cells = comparison.plan(config, compare.read_axes(config))
    assert {cell.loss for cell in cells} == {"pgd"} and config.eps == 0.1 and config.dataset in DATASETS
    main = name.replace("_seeds.flags", ".flags")  # adds to what the other has made
    assert config.run_dir == f"runs/{main.removeprefix('flags/').removesuffix('.flags')}"
    if main == name and not name.endswith("_paper.flags"):  # as far as the authors' code was run
        sparsities = {cell.sparsity for cell in cells if cell.sparsity}
        assert {cell.method for cell in cells} == {*comparison.CHOICES, "dense"}
        assert len(cells) == 2 + (len(comparison.CHOICES) - 1) * len(sparsities)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_radii_are_exact(name, parse):
    config = parse(name)
    if config.dataset == "imagenet2012":
        assert config.eps == 4 / 255
    elif DATASETS[config.dataset][0] == (32, 32, 3):
        assert (config.eps, config.attack_step_size) == (8 / 255, 2 / 255)
    else:
        assert config.eps == 0.1


def test_the_papers_runs_are_complete(parse):
    expected = {
        f"flags/{data}/{model}_{loss}_{sparsity}.flags": (model, loss, float(sparsity) / 100)
        for data in ("cifar10", "svhn")
        for model in ("vgg16_bn", "resnet18")
        for loss in ("pgd", "trades", "mart")
        for sparsity in ("90", "95", "99", "99.9")
    }
    expected |= {f"flags/imagenet/resnet50_free_{s}.flags": ("resnet50", "free", s / 100) for s in (90, 99)}
    assert set(expected) == {name for name in EXPERIMENTS if name.count("/") == 2}
    for name, (model, loss, sparsity) in expected.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        assert f"--target_sparsity={sparsity:.4g}\n" in text, name
        if loss != "free":
            assert f"--model={model}\n" in text and f"--loss={loss}\n" in text, name
        settings = parse(name)
        assert settings.attacks == ("pgd10", "cw", "apgd-ce", "autoattack"), name
        assert settings.eps == (4 if loss == "free" else 8) / 255, name


@functools.cache
def built(model: str, width, depth, dataset: str) -> keras.Model:
    shape, classes = DATASETS[dataset]
    return models.load_or_build(model, shape, classes, width=width, depth=depth)[0]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_model_builds_and_takes_a_batch_of_its_images(name, parse):
    config = parse(name)
    dataset = config.dataset.replace("svhn_cropped", "cifar10")  # of the same shape, so one model serves both
    shape, classes = DATASETS[dataset]
    model = built(config.model, config.width, config.depth, dataset)
    batch = keras.KerasTensor((config.batch_size, *shape))
    assert model.compute_output_spec(batch).shape == (config.batch_size, classes)


def one_step(config: RunConfig, model: str, size: int, **settings) -> None:
    """One training step of the prune stage of a narrow model on random images."""
    shape, classes = (size, size, 3), DATASETS[config.dataset][1]
    network, _ = models.load_or_build(model, shape, classes, width=0.125)
    network = layers.prune(network, 0.9, verbose=False)
    trainer = training.AdversarialModel(
        network,
        losses.get(config.loss, beta=config.beta, batch_size=4, replays=2),
        attacks.PGD(eps=config.eps, step_size=config.attack_step_size, steps=2),
    )
    trainer.compile(keras.optimizers.SGD(0.1), **settings)
    kernels = layers.pruned_kernels(network)
    before = [keras.ops.convert_to_numpy(kernel.scores.scores) for kernel in kernels]
    rng = np.random.default_rng(0)
    images, labels = rng.random((4, *shape), dtype=np.float32), rng.integers(0, classes, 4)
    gamma = training.StepwiseRegularization(config.gamma)
    history = trainer.fit(images, labels, batch_size=4, verbose=0, callbacks=[gamma]).history
    assert np.isfinite(history["loss"]).all()
    for kernel, scores in zip(kernels, before, strict=True):
        assert np.abs(keras.ops.convert_to_numpy(kernel.scores.scores) - scores).max() > 0, kernel.path


STEPS = [
    ("flags/cifar10/vgg16_bn_pgd_99.flags", "vgg16_bn", 32),
    ("flags/cifar10/resnet18_pgd_99.flags", "resnet18", 32),
    pytest.param("flags/imagenet/resnet50_free_99.flags", "resnet50", 64, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name, model, size", STEPS)
def test_a_training_step_runs(name, model, size, parse):
    config = parse(name)
    assert config.model == model
    one_step(config, model, size, run_eagerly=True)


@pytest.mark.slow
@pytest.mark.parametrize("name, model, size", STEPS)
def test_a_training_step_runs_compiled(name, model, size, parse):
    one_step(parse(name), model, size)
