"""One flag per setting; mistakes end in one line and status 2; a target brings its settings."""

import dataclasses
import json
import os

import pytest
import tensorflow as tf
from absl import flags

from harp_tf import cli_flags
from harp_tf.config import RunConfig, setting_range
from harp_tf.measure import radii
from harp_tf.run_record import RunRecord
from harp_tf.types import HarpError

FIELDS = {field.name: field for field in dataclasses.fields(RunConfig)}


@pytest.fixture
def parsed(fresh_flags):
    """Parses a command line as `train` does, with --target as well if asked for."""

    def parse(*arguments: str, target: bool = False) -> list[str]:
        fresh_flags()
        cli_flags.define_settings()
        if target:
            cli_flags.define_target()
        return flags.FLAGS(["train", *arguments])

    return parse


@pytest.fixture
def refused(program, monkeypatch):
    """The line with which `train` refuses its arguments, before it begins to run."""
    from harp_tf import pipeline

    monkeypatch.setattr(pipeline, "Run", lambda config: pytest.fail("the run began"))
    return lambda *arguments, name="train": program(name, *arguments).error


def test_every_setting_is_a_flag_with_help_range_and_default(parsed):
    parsed()
    for name, field in FIELDS.items():
        flag = flags.FLAGS[name]
        text = " ".join(flag.help.split())
        assert field.metadata["help"] in text, name
        assert (f"Range: {setting_range(field)}." in text) == bool(setting_range(field)), name
        assert flag.value == (list(field.default) if isinstance(field.default, tuple) else field.default)
        for choice in field.metadata["choices"] or ():
            assert choice in flag.help or choice in str(flag.parser.syntactic_help), (name, choice)


def test_without_flags_the_settings_are_the_defaults(parsed):
    parsed()
    assert cli_flags.read_settings() == RunConfig()
    assert cli_flags.given_flags() == []


def test_a_radius_may_be_a_quotient(parsed, refused):
    parsed("--eps=8/255", "--attack_step_size=2/255", "--eps_list=0,8/255,0.1")
    settings = cli_flags.read_settings()
    assert (settings.eps, settings.attack_step_size) == (8 / 255, 2 / 255)
    assert radii(settings) == [8 / 255, 0, 0.1]
    for wrong in ("8/0", "8/", "/255", "8/2/5", "eight"):
        assert "eps" in refused(f"--eps={wrong}")
        assert "eps_list must be radii" in refused(f"--eps_list={wrong}")


def test_flags_of_every_kind_are_read(parsed, tmp_path):
    flagfile = tmp_path / "a.flags"
    flagfile.write_text("# a comment\n--batch_size=3\n--eps=0.25\n\n--skip=conv1,logits\n")
    others = ["--loss=mart", "--download", "--stages=prune,export", "--eps=0.5", "--model=m.keras"]
    others.append("--rate_bounds=conv1=0.1:,logits=1:1")
    parsed(f"--flagfile={flagfile}", *others)
    config = cli_flags.read_settings()
    expected = {
        "batch_size": 3,
        "eps": 0.5,
        "skip": ("conv1", "logits"),
        "loss": "mart",
        "download": True,
        "stages": ("prune", "export"),
        "model": "m.keras",
        "rate_bounds": ("conv1=0.1:", "logits=1:1"),
    }
    assert config == RunConfig(**expected)
    assert sorted(cli_flags.given_flags()) == sorted(expected)


def test_a_flag_given_with_its_default_counts_as_given(parsed):
    parsed("--seed=0", "--nodownload")
    assert sorted(cli_flags.given_flags()) == ["download", "seed"]


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--nonesuch=1", ["nonesuch"]),
        ("--batch-sise=1", ["batch-sise"]),
        ("--batch_size=many", ["batch_size", "many"]),
        ("--batch_size=1.5", ["batch_size", "1.5"]),
        ("--batch_size=", ["batch_size"]),
        ("--batch_size", ["batch_size"]),
        ("--eps=8:255", ["eps", "8:255"]),
        ("--loss=sgd", ["loss", "sgd", "natural", "pgd", "trades", "mart", "free"]),
        ("--download=perhaps", ["download", "perhaps"]),
        ("--flagfile=none.flags", ["none.flags", "No such file"]),
        # Legal for absl, refused by the settings.
        ("--batch_size=0", ["batch_size must be", "at least 1", "received 0"]),
        ("--eps=inf", ["eps must be", "received inf"]),
        ("--gamma=nan", ["gamma must be", "more than 0", "received nan"]),
        ("--gamma=-0.5", ["gamma must be", "more than 0", "received -0.5"]),
        ("--seed=-1", ["seed must be", "at least 0 and at most 2147483647", "received -1"]),
        ("--stages=", ["stages must be", "pretrain, prune, finetune, export, evaluate", "received ()"]),
        ("--stages=train", ["stages must be one of", "received 'train'"]),
        ("--stages=prune,pretrain", ["stages must be some of", "in this order"]),
        ("--run_dir=", ["run_dir must be a text", "received ''"]),
        ("--target_sparsity=1", ["target_sparsity must be", "received 1.0"]),
        # Positional arguments.
        ("flags/quickstart.flags", ["Unexpected argument 'flags/quickstart.flags'", "--name=value"]),
        ("-", ["Unexpected argument '-'"]),
    ],
)
def test_a_mistake_is_one_line(refused, argument, words):
    line = refused(argument)
    for word in words:
        assert word in line, line


def test_a_close_name_is_suggested(refused):
    assert "batch_size" in refused("--batchsize=1")


def test_flagfiles_that_cannot_be_read(refused, tmp_path):
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    assert "A flagfile is no UTF-8 text" in refused(f"--flagfile={tmp_path / 'binary'}")
    (tmp_path / "outer").write_text(f"--flagfile={tmp_path / 'inner'}\n")
    assert str(tmp_path / "inner") in refused(f"--flagfile={tmp_path / 'outer'}")
    (tmp_path / "wrong").write_text("--batch_size=zero\n")
    assert "zero" in refused(f"--flagfile={tmp_path / 'wrong'}")
    assert "Is a directory" in refused(f"--flagfile={tmp_path}")


def test_help_shows_all_settings_with_their_ranges(program):
    shown = program("train", "--help")
    assert shown.status == 1 and "Traceback" not in shown.err  # absl's way
    for name in FIELDS:
        assert f"--{name}:" in shown.out or f"--[no]{name}:" in shown.out
    assert "Range: more than 0 and at most 1." in " ".join(shown.out.split())
    for name in ("evaluate", "export"):
        assert "--target:" in program(name, "--help").out


def test_a_full_disk_or_the_like_is_one_line(program, monkeypatch, tmp_path):
    from harp_tf import pipeline

    def fail(config):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(pipeline, "Run", fail)
    assert "No space left on device: 'somewhere'" in program("train", f"--run_dir={tmp_path}").error


def test_a_message_of_several_lines_becomes_one(program, monkeypatch):
    from harp_tf import pipeline

    def fail(config):
        raise HarpError("first\nsecond\r\nthird")

    monkeypatch.setattr(pipeline, "Run", fail)
    assert program("train").error == "first second third"


def test_a_mistake_of_the_program_is_not_hidden(program, monkeypatch):
    from harp_tf import pipeline

    def fail(config):
        raise KeyError("bug")

    monkeypatch.setattr(pipeline, "Run", fail)
    with pytest.raises(KeyError):
        program("train")


# Targets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, words",
    [
        (tf.errors.ResourceExhaustedError, ["too little memory", "OOM when allocating", "--accumulate"]),
        (tf.errors.DataLossError, ["file of the data set is damaged", "OOM when allocating"]),
    ],
)
def test_what_fails_in_tensorflow_is_one_line_too(refused, monkeypatch, kind, words):
    from harp_tf import pipeline

    def fail(config):
        raise kind(None, None, "OOM when allocating\na tensor")

    monkeypatch.setattr(pipeline, "Run", fail)
    message = refused()
    assert all(word in message for word in words), message


@pytest.fixture
def stored(tmp_path):
    """Writes the config.json of a run that was made with these settings."""

    def write(**settings):
        run_dir = tmp_path / "moved here since"
        run_dir.mkdir(exist_ok=True)
        content = {"flags": RunConfig(**settings).as_dict(), "seed": 0}
        (run_dir / "config.json").write_text(json.dumps(content))
        return run_dir

    return write


def test_a_target_brings_its_settings_and_flags_take_their_place(parsed, stored):
    run_dir = stored(run_dir="old", dataset="cifar10", eps=0.1, eval_steps=5, skip=("conv1",), init_from="x.keras")
    parsed(f"--target={run_dir}", "--eval_steps=7", "--seed=0", target=True)
    config = cli_flags.settings_for_target("evaluate")
    assert config == RunConfig(
        run_dir=str(run_dir), dataset="cifar10", eps=0.1, eval_steps=7, skip=("conv1",), stages=("evaluate",)
    )


def test_restart_is_never_taken_from_a_run(parsed, stored):
    run_dir = stored(restart=True)
    parsed(f"--target={run_dir}", target=True)
    assert cli_flags.settings_for_target("evaluate").restart is False
    parsed(f"--target={run_dir}", "--restart", target=True)
    assert cli_flags.settings_for_target("export").restart is False


def test_settings_that_later_versions_dropped_are_ignored(parsed, stored):
    run_dir = stored(eps=0.1)
    content = json.loads((run_dir / "config.json").read_text())
    content["flags"]["of_old"] = 1
    (run_dir / "config.json").write_text(json.dumps(content))
    parsed(f"--target={run_dir}", target=True)
    assert cli_flags.settings_for_target("evaluate").eps == 0.1


def test_a_file_as_target_takes_the_flags_alone(parsed, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"")
    parsed(f"--target={path}", "--eps=0.5", target=True)
    assert cli_flags.settings_for_target("evaluate") == RunConfig(eps=0.5, run_dir=str(path), stages=("evaluate",))


def test_targets_that_are_none(refused, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "empty").mkdir()
    for name in ("evaluate", "export"):
        assert "--target" in refused(name=name)
        assert "which does not exist" in refused(f"--target={tmp_path / 'none'}", name=name)
        assert "which does not exist" in refused(f"--target={tmp_path / 'none.keras'}", name=name)
        assert "another kind of file" in refused(f"--target={tmp_path / 'notes.txt'}", name=name)
        assert "holds no config.json" in refused(f"--target={tmp_path / 'empty'}", name=name)
        assert "Unexpected argument" in refused(f"--target={tmp_path / 'empty'}", "more", name=name)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"{}",
        b'{"flags": []}',
        b'{"flags": null}',
        b'{"flags": {"batch_size": "many"}}',
        b'{"flags": {"batch_size": null}}',
        b'{"flags": {"dataset": 5}}',
        b'{"flags": {"stages": ["prune", 1]}}',
        b'{"flags": {"skip": {"a": 1}}}',
        b'{"flags": {"eps": 1e999}}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
)
def test_a_damaged_config_is_named(refused, tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    line = refused(f"--target={tmp_path}", name="evaluate")
    assert line.startswith(f"{path} does not hold the settings of a run: ") and line.endswith("or train again.")
    assert path.read_bytes() == content


def test_a_config_that_is_no_file(refused, tmp_path):
    (tmp_path / "config.json").mkdir()
    assert "Is a directory" in refused(f"--target={tmp_path}", name="evaluate")


def test_names_of_files_are_for_a_file_as_target(refused, stored):
    run_dir = stored()
    for flag in ("--output=x.tflite", "--nosparse"):
        assert "a run directory has its own file names" in refused(f"--target={run_dir}", flag, name="export")


def test_flagfiles_that_never_end(refused, tmp_path):
    (tmp_path / "again").write_text(f"--flagfile={tmp_path / 'again'}\n")
    assert "More than 1000 flagfiles" in refused(f"--flagfile={tmp_path / 'again'}")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "outer").write_text(f"--flagfile={tmp_path / 'pipe'}\n")
    for name in ("pipe", "outer"):
        assert "Not a regular file" in refused(f"--flagfile={tmp_path / name}")
    assert "Not a regular file" in refused("--flagfile", "/dev/zero")


def test_null_bytes_in_a_flagfile(refused, tmp_path):
    (tmp_path / "a").write_bytes(b"--run_dir=a\0b\n")
    assert "run_dir must be a text without null bytes" in refused(f"--flagfile={tmp_path / 'a'}")
    (tmp_path / "b").write_bytes(b"--flagfile=a\0b\n")
    assert "null byte" in refused(f"--flagfile={tmp_path / 'b'}")


@pytest.mark.parametrize(
    ("given", "step"), [([], 0.02), (["--eps=0.2"], 0.04), (["--eps=0.2", "--eval_step_size=0.01"], 0.01)]
)
def test_another_radius_has_a_step_of_its_size(fresh_flags, tmp_path, given, step):
    RunRecord.of(RunConfig(run_dir=str(tmp_path), eps=0.1, eval_step_size=0.02), {}, {}).write({})
    cli_flags.define_settings()
    cli_flags.define_target()
    flags.FLAGS(["evaluate", f"--target={tmp_path}", *given])
    assert cli_flags.settings_for_target("evaluate").eval_step_size == pytest.approx(step)
