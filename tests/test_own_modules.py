"""Layers of the user's own on the command line: their modules are imported where the command line names them."""

import sys

import keras
import pytest

from harp_tf import cli_flags, models
from harp_tf.comparison.cells import Axes, evaluate_arguments, plan
from harp_tf.config import RunConfig
from harp_tf.types import HarpError
from tests.runs import counts, read

pytestmark = pytest.mark.usefixtures("no_plots")

MODULE = """
import keras

import harp_tf


@keras.saving.register_keras_serializable("mine")
class LowRank(keras.layers.Layer):
    def __init__(self, units, rank, **kwargs):
        super().__init__(**kwargs)
        self.units, self.rank = units, rank

    def build(self, input_shape):
        self.down = self.add_weight(name="down", shape=(input_shape[-1], self.rank))
        self.up = self.add_weight(name="up", shape=(self.rank, self.units))

    def call(self, inputs):
        return inputs @ self.down @ self.up

    def get_config(self):
        return {**super().get_config(), "units": self.units, "rank": self.rank}


harp_tf.register_kernels(LowRank, "down", "up")


def build(input_shape, num_classes):
    return keras.Sequential(
        [keras.Input(input_shape), keras.layers.Flatten(), LowRank(32, 8), keras.layers.Dense(num_classes)]
    )
"""


@pytest.fixture
def new_python(tmp_path, monkeypatch):
    """Writes the module, and makes this process forget it, as one that starts anew."""
    (tmp_path / "layers_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def forget():
        sys.modules.pop("layers_of_a_user", None)
        custom = keras.saving.get_custom_objects()
        for name in [name for name in custom if name.startswith("mine>") or "LowRank" in name]:
            del custom[name]

    yield forget
    forget()


def test_a_run_with_own_layers_goes_on_is_evaluated_and_exported(tiny, program, new_python, tmp_path):
    settings = {"model": "layers_of_a_user:build", "init_from": None}
    tiny(**settings, stages=("pretrain",)).run()
    new_python()
    tiny(**settings, stages=("prune", "finetune")).run()
    rates = read(tmp_path / "run" / "rates.json")
    assert [name.rpartition("/")[2] for name in counts(rates)] == ["down", "up", "kernel"]

    new_python()
    target, evaluation = f"--target={tmp_path / 'run'}", ("--robust_limit=20", "--nomeasure_dense")
    assert "--import_modules=MODULE" in program("evaluate", target, *evaluation).error
    assert "layers_of_a_user" not in sys.modules, "a module that only the settings of a stored run name"
    own = "--import_modules=layers_of_a_user"
    ended = program("evaluate", target, own, *evaluation)
    assert ended.status == 0, ended.err
    assert set(read(tmp_path / "run" / "results.json")) == {"pruned"}

    new_python()
    file = f"--target={tmp_path / 'run' / 'pruned.keras'}"
    assert "--import_modules=MODULE" in program("export", file).error
    assert program("export", file, own).status == 0
    assert (tmp_path / "run" / "pruned.tflite").exists()


def test_settings_of_a_run_name_no_modules_to_import(fresh_flags, tiny, new_python, monkeypatch):
    run = tiny(import_modules=("layers_of_a_user",))
    run.run()
    assert read(run.dir / "config.json")["flags"]["import_modules"] == ["layers_of_a_user"]
    monkeypatch.setattr(sys, "argv", ["evaluate", f"--target={run.dir}"])
    cli_flags.define_settings()
    cli_flags.define_target()
    cli_flags.flags.FLAGS(sys.argv)
    assert cli_flags.settings_for_target("evaluate").import_modules == ()


def test_cells_of_a_comparison_import_what_the_models_need(tmp_path):
    config = RunConfig(model="layers_of_a_user:build", import_modules=("more_layers",), run_dir=str(tmp_path))
    assert config.own_modules == ("more_layers", "layers_of_a_user")
    axes = Axes(("lwm",), (0.9,), ("pgd",), (0,))
    arguments = evaluate_arguments(plan(config, axes)[-1])
    assert "--import_modules=more_layers,layers_of_a_user" in arguments
    assert RunConfig(model="C:/my.keras").own_modules == RunConfig().own_modules == ()


def test_a_module_that_needs_another_one(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("import nothing_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(HarpError, match=r"'broken_module' could not be imported .*No module named 'nothing_there'"):
        models.import_module("broken_module")
    with pytest.raises(HarpError, match="The module 'no_such.module' was not found"):
        models.import_module("no_such.module")


def test_a_module_that_is_not_there():
    with pytest.raises(HarpError, match="The module 'no_such_module' was not found .*the current folder"):
        models.import_module("no_such_module")
