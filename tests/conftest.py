"""What tests of several rooms share."""

import fcntl
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from harp_tf.config import RunConfig
from harp_tf.pipeline import Run
from harp_tf.report import theme
from tests.runs import TINY_MODULE, tiny_model

ROOT = Path(__file__).resolve().parent.parent

SMALL_RUN = """\
# A whole run of half a minute on the digits, with 14,916 prunable weights.
--dataset=digits
--train_limit=256
--test_limit=100
--model=cnn_digits
--width=0.25
--eps=0.1
--attack_steps=2
--target_sparsity=0.95
--gamma=0.3
--batch_size=64
--pretrain_epochs=3
--prune_epochs=3
--finetune_epochs=2
--eval_steps=3
--seed=7
"""


EXPORT_FLAGS = ("quantize", "compact", "kit", "forms", "bench", "check_arm_sparse", "arm_sparse")
COMPARE_FLAGS = ("methods", "sparsities", "losses", "seeds", "jobs")
TRAIN_FLAGS = ("recipe",)


def _forget_flags():
    for name in (
        *RunConfig.__dataclass_fields__,
        "target",
        "output",
        "sparse",
        "save_adversarial",
        *EXPORT_FLAGS,
        *COMPARE_FLAGS,
        *TRAIN_FLAGS,
    ):
        if name in flags.FLAGS:
            delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


@pytest.fixture
def fresh_flags():
    """Absl's flags are one global object: a function that undefines what a command-line program has defined."""
    _forget_flags()
    yield _forget_flags
    _forget_flags()


class Ended:
    """How a program ended: exit status, standard output and standard error."""

    def __init__(self, status: int, out: str, err: str):
        self.status, self.out, self.err = status, out, err

    @property
    def error(self) -> str:
        """The one line of a mistake that the user can mend; fails unless it is just that."""
        assert self.status == 2, (self.status, self.out, self.err)
        assert self.err.startswith("error: ") and self.err.endswith("\n") and self.err.count("\n") == 1, self.err
        return self.err.removeprefix("error: ").rstrip("\n")


@pytest.fixture
def program(fresh_flags, monkeypatch, capsys):
    """Runs `python -m harp_tf.NAME ARGUMENTS...` in this process, as `program("train", "--seed=1")`."""

    def run(name: str, *arguments: str) -> Ended:
        fresh_flags()
        monkeypatch.setattr(sys, "argv", [f"harp_tf/{name}.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(f"harp_tf.{name}", run_name="__main__")
        captured = capsys.readouterr()
        return Ended(ended.value.code or 0, captured.out, captured.err)

    return run


def in_a_new_process(*arguments: str, cwd: Path = ROOT, path: str = str(ROOT), seconds: float = 300) -> Ended:
    """Runs `python ARGUMENTS...` as a user does; starting TensorFlow costs seconds, so use it sparingly."""
    environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def new_process():
    """`in_a_new_process`, for tests."""
    return in_a_new_process


@pytest.fixture(scope="session")
def small_flags(tmp_path_factory) -> Path:
    """The flagfile of the small run, which leaves --run_dir to whoever uses it."""
    path = tmp_path_factory.mktemp("flags") / "small.flags"
    path.write_text(SMALL_RUN)
    return path


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, small_flags) -> tuple[Path, Ended]:
    """The directory of a small run by `python -m harp_tf.train`, not to be changed, and how the program ended.

    Where tests run in several processes, one of them makes it and the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared_run"
    shared.mkdir(exist_ok=True)
    record = shared / "ended.json"
    with open(shared / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            ended = in_a_new_process(
                "-m", "harp_tf.train", f"--flagfile={small_flags}", f"--run_dir={shared / 'small'}"
            )
            assert ended.status == 0, ended.err
            record.write_text(json.dumps(vars(ended)))
    return shared / "small", Ended(**json.loads(record.read_text()))


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.keras"
    tiny_model().save(path)
    return path


@pytest.fixture
def module_of_a_user(tmp_path, monkeypatch):
    (tmp_path / "tiny_of_a_user.py").write_text(TINY_MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def no_plots(monkeypatch):
    """The pictures cost seconds a run; test_run_directory.py looks at those of a whole run."""
    monkeypatch.setattr(theme, "save", lambda figures, folder: dict.fromkeys(figures, "<svg/>"))


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
