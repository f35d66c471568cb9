import dataclasses

import pytest
from absl import flags

from harp_tf import cli_flags
from harp_tf.baselines import METHODS
from harp_tf.comparison import CHOICES, Axes, plan
from harp_tf.comparison.cells import evaluate_arguments, train_arguments
from harp_tf.config import RunConfig
from harp_tf.recipes import BEST
from harp_tf.report import labels
from harp_tf.report.comparison import plots
from harp_tf.types import HarpError

CONFIG = RunConfig(run_dir="runs/it", pretrain_epochs=8, prune_epochs=5, finetune_epochs=6, seed=7)


def axes(methods=("harp",), sparsities=(0.9,), losses=("pgd",), seeds=(0,)):
    return Axes(methods, sparsities, losses, seeds)


def test_every_combination_is_a_cell_after_what_it_starts_from():
    cells = plan(CONFIG, axes(("harp", "lwm", "dense_control"), (0.9, 0.995), ("pgd", "mart"), (1, 2)))
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names) == 2 * (1 + 2 * (1 + 2 * 2))
    assert names[:4] == ["dense_pgd", "dense_control_pgd_seed1", "harp_90_pgd_seed1", "lwm_90_pgd_seed1"]
    assert "harp_99.5_mart_seed2" in names
    made = set()
    for cell in cells:
        assert cell.config.init_from is None or cell.config.init_from in made
        made.add(cell.config.run_dir)


def test_all_cells_have_the_validation_images_of_the_dense_model():
    assert {cell.config.cut_seed for cell in plan(CONFIG, axes(seeds=(1, 2)))} == {7}
    other = dataclasses.replace(CONFIG, data_seed=3)
    assert {cell.config.cut_seed for cell in plan(other, axes(seeds=(1, 2)))} == {3}


def test_what_each_kind_of_cell_does():
    dense, control, pruned = plan(CONFIG, axes(("harp", "dense_control"), seeds=(1,)))
    assert (dense.method, dense.seed, dense.config.seed) == ("dense", 7, 7)
    assert dense.config.stages == ("pretrain", "export", "evaluate") and dense.config.pretrain_epochs == 8
    assert control.config.pretrain_epochs == 5 + 6 and control.config.init_from == dense.config.run_dir
    assert pruned.config.stages == ("prune", "finetune", "export", "evaluate")
    assert (pruned.config.method, pruned.config.target_sparsity, pruned.config.seed) == ("harp", 0.9, 1)
    assert not pruned.config.measure_dense and dense.config.measure_dense


def test_the_best_recipe_is_one_of_the_methods():
    paper = dataclasses.replace(CONFIG, finetune_learning_rate=0.02)
    _, plain, best = plan(paper, axes(("harp", "harp_best")))
    assert best.config == dataclasses.replace(plain.config, run_dir=best.config.run_dir, **BEST)
    assert best.name == "harp_best_90_pgd_seed0" and not best.after - plain.after
    with pytest.raises(HarpError, match="received harp_best@lamp"):
        axes(("harp_best@lamp",))


def test_a_trained_model_is_the_dense_one(tiny_file):
    for settings in ({"model": str(tiny_file)}, {"init_from": str(tiny_file)}):
        dense, _ = plan(dataclasses.replace(CONFIG, **settings), axes())
        assert dense.config.stages == ("export", "evaluate") and dense.model == tiny_file
        folder = "runs/it/cells/dense_pgd"
        assert dense.command().startswith(f"mkdir -p {folder} && cp {tiny_file} {folder}/dense.keras && python -m")
    with pytest.raises(HarpError, match="does not exist"):
        plan(dataclasses.replace(CONFIG, init_from="nowhere"), axes())


def test_a_command_says_all_that_its_cell_is(fresh_flags):
    config = dataclasses.replace(
        CONFIG, skip=("a b", 'c,"d"'), download=True, measure_dense=False, eps=1 / 3, seed=2, data_seed=0, width=0.5
    )
    cli_flags.define_settings()
    arguments = train_arguments(config)
    assert arguments[:2] == ["-m", "harp_tf.train"]
    flags.FLAGS(["train", *arguments[2:]])
    assert cli_flags.read_settings() == config


def test_measuring_anew_leaves_nothing_to_what_was_stored():
    _, cell = plan(dataclasses.replace(CONFIG, eval_steps=5), axes())
    attacks, radii, limit = evaluate_arguments(cell)[3:]
    assert (attacks, radii) == ("--attacks=pgd5", f"--eps_list={8 / 255}") and limit == f"--robust_limit={2**31 - 1}"


def test_measuring_anew_reads_the_data_where_they_lie_now():
    _, cell = plan(dataclasses.replace(CONFIG, data_dir="/new", download=True, class_names=("a", "b")), axes())
    assert evaluate_arguments(cell)[6:] == ["--data_dir=/new", "--class_names=a,b", "--download"]


def test_a_method_at_other_rates():
    _, at_lamp, harp, at_harp = plan(CONFIG, axes(("hydra@harp", "radmm@lamp", "harp"), seeds=(1,)))
    assert (at_lamp.method, at_lamp.name) == ("radmm@lamp", "radmm@lamp_90_pgd_seed1")
    assert (at_lamp.config.method, at_lamp.config.strategy) == ("radmm", "lamp")
    assert harp.after == at_lamp.after == {"dense_pgd"}
    assert (at_harp.config.method, at_harp.config.strategy) == ("hydra", f"{harp.directory}/rates.json")
    assert at_harp.after == {"dense_pgd", harp.name}
    with pytest.raises(HarpError, match="The method lwm has rates of its own"):
        plan(CONFIG, axes(("lwm@erk",)))


@pytest.mark.parametrize(
    "texts, message",
    [
        (
            (["harp@magic"], ["0.9"], ["pgd"], ["0"]),
            "METHOD@RATES .* one of uniform, erk, igq, lamp, harp, .*harp@magic",
        ),
        ((["dense_control@erk"], ["0.9"], ["pgd"], ["0"]), "--methods must be some of .*dense_control@erk"),
        ((["hydra@harp"], ["0.9"], ["pgd"], ["0"]), "hydra@harp takes the rates that harp learns: add harp"),
        ((["harp", "magic"], ["0.9"], ["pgd"], ["0"]), "--methods must be some of harp.*magic"),
        ((["harp", "harp"], ["0.9"], ["pgd"], ["0"]), "--methods must name at least one, and each once"),
        ((["harp"], [], ["pgd"], ["0"]), "--sparsities must name at least one"),
        ((["harp"], ["90%"], ["pgd"], ["0"]), "--sparsities must be numbers, received 90%"),
        ((["harp"], ["0.9"], ["pgd"], ["0.5"]), "--seeds must be whole numbers"),
    ],
)
def test_what_axes_refuse(texts, message):
    with pytest.raises(HarpError, match=message):
        Axes.parse(*texts)


def test_settings_that_a_method_does_not_know_are_refused_before_anything_is_trained():
    with pytest.raises(HarpError, match="granularity"):
        plan(dataclasses.replace(CONFIG, granularity="channel"), axes(("harp", "lwm")))


def test_every_method_has_a_name_and_a_line_of_its_own_in_the_report():
    assert set(CHOICES) <= set(labels.METHODS) and set(CHOICES) <= set(plots.STYLES)
    assert len(set(labels.METHODS.values())) == len(labels.METHODS)
    assert labels.method("radmm@lamp") == "Robust-ADMM at LAMP rates"
    assert labels.method("harp@lamp") == "HARP from LAMP rates"
    assert set(labels._LEARN_RATES) == {name for name, method in METHODS.items() if method.mode != "score"}
    assert (
        plots._style("radmm@lamp")[0] == plots.STYLES["radmm"][0]
        and plots._style("radmm@lamp") != plots.STYLES["radmm"]
    )
    assert len({plots.STYLES[method] for method in CHOICES}) == len(CHOICES)
