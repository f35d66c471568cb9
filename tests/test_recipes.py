"""--recipe stands for settings, at its place among the flags."""

import pytest

from harp_tf import pipeline
from harp_tf.config import RunConfig
from harp_tf.recipes import BEST, PAPER, RECIPES


@pytest.fixture
def settings(program, monkeypatch):
    """The settings with which `train` begins to run, given its arguments."""
    seen = []

    class Run:
        def __init__(self, config):
            seen.append(config)

        def run(self):
            return {}

    monkeypatch.setattr(pipeline, "Run", Run)

    def read(*arguments: str) -> RunConfig:
        ended = program("train", *arguments)
        assert ended.status == 0, ended.err
        return seen.pop()

    return read


def test_without_a_recipe_the_settings_are_the_papers(settings):
    assert settings("--recipe=paper") == RunConfig(**PAPER)
    defaults = settings()
    assert all(getattr(defaults, name) == value for name, value in PAPER.items() if name != "strategy")
    assert defaults.initial_strategy == PAPER["strategy"]


def test_recipes_are_about_the_same_settings_and_differ(settings):
    assert set(PAPER) == set(BEST)
    assert all(PAPER[name] != BEST[name] for name in PAPER)


@pytest.mark.parametrize("arguments", [["--recipe=best"], ["--recipe", "best"], ["-recipe=best"]])
def test_a_recipe_is_its_settings(settings, arguments):
    assert settings("--seed=3", *arguments) == RunConfig(seed=3, **BEST)


def test_what_comes_later_wins(settings, tmp_path):
    flagfile = tmp_path / "a.flags"
    flagfile.write_text("--finetune_learning_rate=0.5\n--method=rate\n")
    assert settings(f"--flagfile={flagfile}", "--recipe=best") == RunConfig(method="rate", **BEST)
    both = settings("--recipe=best", f"--flagfile={flagfile}")
    assert both == RunConfig(method="rate", **{**BEST, "finetune_learning_rate": 0.5})
    assert settings("--recipe=best", "--recipe=paper") == RunConfig(**PAPER)
    flagfile.write_text("--finetune_learning_rate=0.5\n# a comment\n--recipe=best\n--eps=0.2\n")
    assert settings(f"--flagfile={flagfile}") == RunConfig(eps=0.2, **BEST)


def test_an_unknown_recipe_is_refused_by_name(program):
    message = program("train", "--recipe=secret").error
    assert "secret" in message and all(name in message for name in RECIPES)


@pytest.mark.parametrize("method", ["lwm", "hydra", "radmm", "flying_bird"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_methods_that_learn_no_rates_refuse_recipes(program, method, recipe):
    message = program("train", f"--method={method}", f"--recipe={recipe}").error
    assert f"--recipe={recipe} is for methods that learn rates (harp, harp_joint, rate)" in message
    assert f"received --method={method}" in message


def test_programs_without_recipes_refuse_them(program):
    assert "recipe" in program("compare", "--recipe=best").error
