"""One training of a run: in parts, in another precision, compiled, watched."""

import shutil

import keras
import numpy as np
import pytest

from harp_tf import training
from harp_tf.config import RunConfig
from harp_tf.types import HarpError
from tests.runs import kernels, metrics

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture
def trainers(monkeypatch):
    """The trainings that are made."""
    made: list[training.AdversarialModel] = []
    fit = training.AdversarialModel.fit

    def spied(self, *args, **kwargs):
        self.computed_in = {layer.compute_dtype for layer in self.network.layers}
        made.append(self)
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(training.AdversarialModel, "fit", spied)
    return made


@pytest.mark.slow
def test_a_run_in_parts_makes_the_updates_of_whole_batches(tiny, trainers, tmp_path):
    runs = [tiny(run_dir=str(tmp_path / str(parts)), prune_epochs=2, accumulate=parts) for parts in (1, 4)]
    for run in runs:
        run.run()
    assert [trainer.accumulate for trainer in trainers] == [1, 4]
    assert [int(trainer.optimizer.iterations) for trainer in trainers] == [8, 8]
    rates = [[line["logs"]["learning_rate"] for line in metrics(run.dir)] for run in runs]
    assert rates[0] == rates[1]


def test_parts_must_divide_the_batch():
    with pytest.raises(HarpError, match="accumulate must divide batch_size = 32 into parts of one size, received 5"):
        RunConfig(batch_size=32, accumulate=5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_a_run_in_short_numbers_leaves_float32_files(tiny, trainers, precision):
    run = tiny(stages=("prune", "export"), precision=precision)
    run.run()
    assert trainers[0].computed_in == {precision.removeprefix("mixed_")}
    scaled = isinstance(trainers[0].optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (precision == "mixed_float16")
    for name in ("dense", "scored", "pruned"):
        model = keras.models.load_model(run.dir / f"{name}.keras")
        assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert all(np.isfinite(kernel).all() for kernel in kernels(run.dir / "pruned.keras").values())


@pytest.mark.parametrize("jit", ["auto", pytest.param("off", marks=pytest.mark.slow)])
def test_without_an_accelerator_nothing_is_compiled_by_xla(tiny, trainers, jit):
    tiny(jit=jit).run()
    assert [trainer.jit_compile for trainer in trainers] == [False]


@pytest.mark.slow
def test_xla_trains_the_same_network(tiny, trainers, tmp_path):
    # XLA draws other random numbers: a radius of 0 leaves one start.
    runs = [tiny(run_dir=str(tmp_path / jit), jit=jit, eps=0.0) for jit in ("on", "off")]
    for run in runs:
        run.run()
    assert [trainer.jit_compile for trainer in trainers] == [True, False]
    one, other = (metrics(run.dir)[0]["logs"] for run in runs)
    assert one == pytest.approx(other, rel=1e-3, abs=1e-3)


def test_a_training_that_diverges_ends_the_program_with_one_line(program, tmp_path):
    ended = program(
        "train", f"--run_dir={tmp_path}/run", "--train_limit=128", "--batch_size=32", "--attack_steps=1",
        "--pretrain_learning_rate=1e30", "--pretrain_epochs=1", "--stages=pretrain",
    )  # fmt: skip
    assert ended.error.startswith("The loss became ") and "in epoch 1, between steps 0 and 4. Lower the" in ended.error


def test_a_disk_too_full_for_a_stage_is_refused_before_it(tiny, trainers, monkeypatch):
    run = tiny()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9 - 1_000, 1_000))
    with pytest.raises(HarpError, match=r"The stage prune needs \d\d\d,\d\d\d bytes in .*run, and 1,000 are free"):
        run.run()
    assert not trainers


def test_warnings_are_said_and_on_record(tiny, lines):
    run = tiny(target_sparsity=0.99, initial_rate=0.01)
    run.run()
    (line,) = metrics(run.dir)
    assert [(w["watchdog"], w["subject"]) for w in line["warnings"]] == [("dying_layer", "first/kernel")]
    assert f"WARNING (dying_layer) {line['warnings'][0]['text']}" in lines


def test_a_run_in_good_order_is_not_warned_of(tiny, lines):
    run = tiny(target_sparsity=0.5)
    run.run()
    assert "warnings" not in metrics(run.dir)[0] and not [line for line in lines if line.startswith("WARNING (")]
