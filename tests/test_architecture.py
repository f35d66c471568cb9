"""The house keeps its order: imports go one way, BUILD says the same, and nothing forbidden comes in."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import update_build  # noqa: E402

# From the ground up; a room imports from the levels below its own.
LEVELS = [
    {"types", "reading", "recipes", "answers"},
    {"keras_backend", "inputs"},
    {"compression", "configured", "files"},
    {"layers", "strategies", "attacks", "losses", "models", "data"},
    {"training", "baselines", "compaction", "deploy", "report"},
    {"config"},
    {"run_record"},
    {"run_dir"},
    {"fitting", "measure", "pruning", "workers"},
    {"cli_flags", "pipeline", "comparison"},
    {"train", "evaluate", "export", "compare"},
    {"harp_tf"},  # the package's __init__.py: the public names
]
# Arrows within one level, each with its reason; they go one way too.
NEIGHBOURS = {
    ("layers", "strategies"),  # prune() asks a strategy for the rates that its layers start from
    ("attacks", "losses"),  # what an attack maximises is a loss
    ("baselines", "training"),  # a method that trains weights is a training of its own
}
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
SOURCES = [path for files in update_build.room_files().values() for path in files]


def turned_arrows(imports: dict[str, set[str]]) -> list[str]:
    """Returns the imports that go up or sideways."""
    return [
        f"{room} imports {other}"
        for room, others in imports.items()
        for other in sorted(others)
        if LEVEL[other] >= LEVEL[room] and (room, other) not in NEIGHBOURS
    ]


def build_targets(text: str) -> dict[str, dict]:
    """Reads the targets of a BUILD file; Starlark is a part of Python's grammar."""
    targets = {}
    for node in ast.parse(text).body:
        assert isinstance(node, ast.Expr) and isinstance(node.value, ast.Call), ast.dump(node)
        if node.value.func.id in ("py_library", "py_binary"):
            values = {keyword.arg: keyword.value for keyword in node.value.keywords}
            sources = values["srcs"]
            if isinstance(sources, ast.Call):
                assert sources.func.id == "glob"
                sources = sources.args[0]
            targets[ast.literal_eval(values["name"])] = {
                "rule": node.value.func.id,
                "srcs": ast.literal_eval(sources),
                "deps": ast.literal_eval(values["deps"]) if "deps" in values else [],
            }
    return targets


def top_level_names(path: Path) -> set[str]:
    return {name.split(".")[0] for name in update_build.imported_modules(path)}


def test_every_room_has_a_place_in_the_order():
    unplaced = set(update_build.room_files()) - set(LEVEL)
    assert not unplaced, f"give {sorted(unplaced)} a level in tests/test_architecture.py"


def test_the_page_of_architecture_names_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    described = {room for cell in re.findall(r"^\| (`[^|]*) \|", page, re.M) for room in re.findall(r"`(\w+)`", cell)}
    assert described == set(update_build.room_files()) - {"harp_tf"}


def test_imports_go_one_way():
    assert turned_arrows(update_build.room_imports()) == []


def test_a_turned_arrow_is_noticed(tmp_path):
    for name, text in {
        "types.py": "def f():\n    from harp_tf.pipeline import run\n    return run\n",
        "pipeline.py": "import harp_tf.types\nfrom harp_tf import train\n",
        "train.py": "",
        "layers/__init__.py": "from ..attacks import pgd\nfrom . import wrap\n",
        "layers/wrap.py": "from harp_tf.layers.registry import kernels\nimport tensorflow as tf\n",
        "attacks/__init__.py": "from harp_tf import types\n",
    }.items():
        path = tmp_path / "harp_tf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    imports = update_build.room_imports(tmp_path)
    assert imports == {
        "attacks": {"types"},
        "layers": {"attacks"},
        "pipeline": {"train", "types"},
        "train": set(),
        "types": {"pipeline"},
    }
    assert turned_arrows(imports) == [
        "layers imports attacks",
        "pipeline imports train",
        "types imports pipeline",
    ]


def test_build_has_one_target_per_room_and_deps_are_the_imports():
    targets = build_targets((ROOT / "BUILD").read_text())
    imports = update_build.room_imports()
    found = {name: sorted(target["deps"]) for name, target in targets.items()}
    expected = {room: sorted(f":{dep}" for dep in deps) for room, deps in imports.items()}
    assert found == expected, "run: python tools/update_build.py"


def test_build_names_every_source_file_once():
    targets = build_targets((ROOT / "BUILD").read_text())
    patterns = [pattern for target in targets.values() for pattern in target["srcs"]]
    matched = [path for pattern in patterns for path in ROOT.glob(pattern)]
    assert sorted(matched) == sorted(SOURCES), "run: python tools/update_build.py"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_pickled_and_no_layer_is_a_lambda(path):
    tree = ast.parse(path.read_text())
    assert not top_level_names(path) & PICKLES
    for node in ast.walk(tree):
        name = getattr(node, "attr", getattr(node, "id", None))
        assert name != "Lambda", f"line {node.lineno}: a Lambda layer hides code in a saved model"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False", f"line {node.value.lineno}"


def test_report_needs_no_tensorflow():
    rooms, imports = update_build.room_files(), update_build.room_imports()
    reached, waiting = set(), ["report"]
    while waiting:
        room = waiting.pop()
        if room not in reached:
            reached.add(room)
            waiting.extend(imports[room])
    names = set().union(*(top_level_names(path) for room in reached for path in rooms[room]))
    assert names - {"harp_tf", *sys.stdlib_module_names} <= {"numpy", "matplotlib"}


def test_tested_versions_lie_in_the_ranges_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = sum(project["optional-dependencies"].values(), project["dependencies"])
    ranges = {requirement.name: requirement.specifier for requirement in map(Requirement, stated)}
    lines = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-dev.txt").read_text()
    pins = [Requirement(line) for line in lines.splitlines() if line and not line.startswith("#")]
    assert {pin.name for pin in pins} == set(ranges)
    for pin in pins:
        (exact,) = pin.specifier
        assert exact.operator == "==" and exact.version in ranges[pin.name], str(pin)
