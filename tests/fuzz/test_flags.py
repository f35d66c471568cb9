"""Whatever a flag is set to, it is accepted or refused in one line."""

import dataclasses
import sys
from pathlib import Path

import pytest
from hypothesis import strategies as st

from harp_tf import attacks, data, layers, models, pruning, strategies
from harp_tf.config import RunConfig, setting_type
from tests.fuzz.limits import amounts, fuzz, outcome
from tests.fuzz.mutations import NUMBERS
from tests.runs import tiny_model

FIELDS = {field.name: field for field in dataclasses.fields(RunConfig)}
BY_KIND = {
    bool: ["true", "false", "1", "0", "yes", "", "None"],
    int: [*map(str, NUMBERS[:20]), "1_0", " 1", "0x10", "१", "1e3", "nan", "9" * 5000],
    float: [*map(str, NUMBERS[:20]), "nan", "inf", "-inf", "1e400", "1_0.5", "8/255", "0x1p-3", "१.५"],
    str: ["digits", "pgd", "uniform", "a.json", "json:dumps", "a:b", "idx:", "npz:x", "dir:.", "../x", "~x"],
    tuple: ["pretrain,prune", "conv1=0.1:", "a,,b", '"', 'a,"b', "a\nb", "(=0.1:", "a{99999999999}=:1", "pgd20x5"],
}
TEXT = st.text(max_size=12) | st.text("():=,.*+?[]{}|\\^$0123456789aegp", max_size=12)


def values(name: str) -> st.SearchStrategy:
    kind = setting_type(FIELDS[name])
    own = st.sampled_from([*BY_KIND[kind], *(FIELDS[name].metadata["choices"] or ())])
    return own | TEXT | st.lists(own | TEXT, max_size=3).map(",".join)


@amounts(8, 60)
@pytest.mark.parametrize("name", FIELDS)
def test_any_value_of_one_flag(ended, name, examples):
    def holds(value):
        found = ended(f"--{name}={value}")
        assert isinstance(found, RunConfig) or found.strip()

    fuzz(examples, holds, values(name))


@amounts(30, 600)
def test_several_flags_at_once(ended, examples):
    pair = st.sampled_from(sorted(FIELDS)).flatmap(lambda name: values(name).map(lambda value: f"--{name}={value}"))
    fuzz(examples, lambda arguments: ended(*arguments), st.lists(pair, min_size=2, max_size=6))


@amounts(30, 600)
def test_any_arguments(ended, examples):
    start = st.sampled_from(["", "-", "--", "---", "--no", "--nodownload", "--download=", "--flagfile", "--undefok="])
    fuzz(examples, lambda arguments: ended(*arguments), st.lists(st.tuples(start, TEXT).map("".join), max_size=3))


@amounts(30, 400)
def test_what_names_of_things_come_to(folder, monkeypatch, examples):
    """A text that is a legal setting is looked up where nothing of that name is: it is refused, whatever it is."""
    monkeypatch.chdir(folder)
    model = tiny_model()
    calls = {
        "dataset": lambda text: data.load(text),
        "strategy": strategies.get,
        "attacks": lambda text: attacks.get(text, eps=0.1),
        "skip": lambda text: layers.prunable_weights(model, (text,)),
        "init_from": lambda text: models.load(Path(text)),
    }

    def holds(name, text):
        if text and "\0" not in text and not (name == "dataset" and ":" not in text):
            outcome(lambda: calls[name](text))

    own = st.sampled_from(
        [*BY_KIND[str], *BY_KIND[tuple], "idx:\ud800", "npz:" + "x" * 300, "dir:~nobody", "pgd0", "pgd20x0"]
    )
    fuzz(
        examples,
        holds,
        st.sampled_from(sorted(calls)),
        own | TEXT | TEXT.map("npz:{}".format) | TEXT.map("dir:{}".format),
    )


@amounts(20, 300)
def test_any_rate_bounds(ended, examples):
    model = tiny_model()

    def holds(pattern, low, high):
        found = ended(f"--rate_bounds={pattern}={low}:{high}", "--target_sparsity=0.5")
        if isinstance(found, RunConfig):
            outcome(lambda: pruning.check(model, found, strategies.get("uniform")))

    bound = st.sampled_from(["", "0.1", "1", "0", "nan", "1e-300", "2", "0.99999999999"])
    pattern = (
        st.sampled_from(["first", "second/kernel", ".*", "", "(", "[[a]]", "a{2,1}", "(?i)FIRST", "(?#x)", "x*" * 9])
        | TEXT
    )
    fuzz(examples, holds, pattern, bound, bound)


@pytest.mark.parametrize("text", ["a{99999999999}=0.1:", "(" * 3000 + ")" * 3000 + "=0.1:", "[=0.1:"])
def test_a_regular_expression_that_is_none(ended, text):
    assert "rate_bounds" in ended(f"--rate_bounds={text}")


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if setting_type(field) in (str, tuple)])
def test_a_null_byte_is_in_no_name(ended, name):
    assert isinstance(ended(f"--{name}=a\0b"), str)


def test_the_module_of_a_model_is_imported_only_where_it_is_named(folder, monkeypatch):
    (folder / "trap_of_a_user.py").write_text("raise SystemError('ran')")
    monkeypatch.syspath_prepend(folder)
    for text in (
        "trap_of_a_user",
        "trap_of_a_user.keras",
        ":trap_of_a_user",
        "trap_of_a_user/x:y",
        "trap_of_a_user\n:y",
    ):
        outcome(lambda: models.load_or_build(text, (8, 8, 1), 10))
    assert "trap_of_a_user" not in sys.modules
