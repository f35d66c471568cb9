"""Writes BUILD from the imports of harp_tf: one target per room, its deps exactly what the room imports.

A room is a sub-package or a top-level module of harp_tf. After adding a room or an import between rooms, run
`python tools/update_build.py`; tests/test_architecture.py fails until BUILD is right.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "harp_tf"
MAINS = ("train", "evaluate", "export", "compare")

HEADER = """\
# Written by tools/update_build.py: one target per room of harp_tf, whose deps are the rooms it imports.
# TensorFlow and the other packages of requirements.txt come from the Python that runs the targets.
load("@rules_python//python:defs.bzl", "py_binary", "py_library")

package(default_visibility = ["//visibility:public"])
"""


def room_files(root: Path = ROOT) -> dict[str, list[Path]]:
    """Finds the rooms.

    Args:
        root: the repository.

    Returns:
        The Python files of every room by its name; the package's own `__init__.py` is the room `harp_tf`.
    """
    rooms: dict[str, list[Path]] = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        rooms.setdefault(PACKAGE if parts == ("__init__",) else parts[0], []).append(path)
    return dict(sorted(rooms.items()))


def imported_modules(path: Path, root: Path = ROOT) -> set[str]:
    """Reads the imports of one file, those inside functions too.

    Args:
        path: a Python file below root.
        root: the repository.

    Returns:
        Absolute dotted names: `from a.b import c` counts as `a.b.c`, since c may be a module.
    """
    package = list(path.relative_to(root).parent.parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join(above + ([node.module] if node.module else []))
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def room_imports(root: Path = ROOT) -> dict[str, set[str]]:
    """Returns, for every room, the other rooms that it imports."""
    rooms = room_files(root)
    imports: dict[str, set[str]] = {}
    for room, files in rooms.items():
        names = set().union(*(imported_modules(path, root) for path in files))
        parts = [name.split(".") for name in names if name.split(".")[0] == PACKAGE]
        found = {p[1] if len(p) > 1 and p[1] in rooms else PACKAGE for p in parts}
        imports[room] = found - {room}
    return imports


def render(root: Path = ROOT) -> str:
    """Returns the text of BUILD for the rooms as they stand."""
    imports = room_imports(root)
    targets = [HEADER]
    for room in imports:
        rule = "py_binary" if room in MAINS else "py_library"
        if room == PACKAGE:
            sources = f'["{PACKAGE}/__init__.py"]'
        elif (root / PACKAGE / room).is_dir():
            sources = f'glob(["{PACKAGE}/{room}/**/*.py"])'
        else:
            sources = f'["{PACKAGE}/{room}.py"]'
        lines = [f'    name = "{room}",', f"    srcs = {sources},"]
        if rule == "py_binary":
            lines.append(f'    main = "{PACKAGE}/{room}.py",')
        if imports[room]:
            deps = "".join(f'        ":{dep}",\n' for dep in sorted(imports[room]))
            lines.append(f"    deps = [\n{deps}    ],")
        targets.append(f"{rule}(\n" + "\n".join(lines) + "\n)\n")
    return "\n".join(targets)


if __name__ == "__main__":
    (ROOT / "BUILD").write_text(render(), encoding="utf-8")
