"""Writes docs/reference.md from the docstrings of harp_tf's public names and from the settings of a run.

Run `python tools/write_reference.py` after changing a public docstring or a flag; tests/test_reference.py fails until
the page is right.
"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PAGE = ROOT / "docs" / "reference.md"

OWN_TRAININGS = ("Checkpoint", "CheckpointStore", "Interrupted", "Interruption", "KeepBest", "Position", "StopOnNaN")
"""What `harp_tf.training` has for trainings that a user calls `fit` for; the rest serves the command line."""

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Reference|Example|Call arguments):$")
_ENTRY = re.compile(r"^(\*{0,2}\w[\w.]*): (.*)$")

INTRODUCTION = """# Reference

Written by `python tools/write_reference.py` from the docstrings: the names of `harp_tf`, of `harp_tf.attacks`,
`harp_tf.baselines`, `harp_tf.losses`, `harp_tf.models` and `harp_tf.deploy`, what `harp_tf.training` has for trainings
of your own, and all flags of the programs, of which most are the settings of a run.
"""


def public_objects() -> dict[str, Callable]:
    """The public classes and functions by their full names, modules left out."""
    import harp_tf

    found: dict[str, Callable] = {}
    for prefix, module, names in (
        ("harp_tf", harp_tf, harp_tf.__all__),
        ("harp_tf.attacks", harp_tf.attacks, harp_tf.attacks.__all__),
        ("harp_tf.baselines", harp_tf.baselines, harp_tf.baselines.__all__),
        ("harp_tf.losses", harp_tf.losses, harp_tf.losses.__all__),
        ("harp_tf.models", harp_tf.models, harp_tf.models.__all__),
        ("harp_tf.training", harp_tf.training, OWN_TRAININGS),
        ("harp_tf.deploy", harp_tf.deploy, harp_tf.deploy.__all__),
    ):
        for name in sorted(names):
            value = getattr(module, name)
            told = value in found.values()  # under its shorter name
            if not told and (inspect.isclass(value) or inspect.isfunction(value)):
                found[f"{prefix}.{name}"] = value
    return found


def markdown(docstring: str) -> str:
    """A Google-style docstring as Markdown: section titles in bold, their entries as lists."""
    lines: list[str] = []
    in_section = False
    for line in inspect.cleandoc(docstring).splitlines():
        title = _SECTION.match(line)
        if title:
            in_section = True
            lines += [f"**{title[1]}**", ""]
        elif in_section and line.startswith("    "):
            entry = _ENTRY.match(line.strip()) if not line.startswith("        ") else None
            lines.append(f"- `{entry[1]}`: {entry[2]}" if entry else f"  {line.strip()}" if lines[-1] else line.strip())
        else:
            in_section = in_section and not line
            lines.append(line)
    return "\n".join(lines).rstrip()


def docstring(value: Callable) -> str:
    """The docstring; of a class whose arguments are told by its `__init__`, both."""
    text = inspect.cleandoc(value.__doc__ or "")
    own = value.__dict__.get("__init__") if inspect.isclass(value) else None
    more = inspect.getdoc(own) if own is not None and "Args:" not in text else None
    return f"{text}\n\n{more}" if more and "Args:" in more else text


def signature(name: str, value: Callable) -> str:
    """How it is called, one argument per line where one line would not do."""
    short, found = name.rpartition(".")[2], inspect.signature(value)
    text = _readable(f"{short}{found}")
    if len(text) <= 110:
        return text
    arguments = [_readable(str(parameter)) for parameter in found.parameters.values()]
    keyword_only = [
        i for i, parameter in enumerate(found.parameters.values()) if parameter.kind is parameter.KEYWORD_ONLY
    ]
    if keyword_only:
        arguments.insert(keyword_only[0], "*")
    result = f") -> {text.rpartition(') -> ')[2]}" if ") -> " in text else ")"
    return f"{short}(\n" + "".join(f"    {argument},\n" for argument in arguments) + result


def _readable(text: str) -> str:
    """A signature without what differs from process to process, or is of no use to who imports public names."""
    text = re.sub(r"<function .*? at 0x\w+>", "...", text)
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text)
    return re.sub(r"\b(?:\w+\.)+([A-Z]\w*)\b", r"\1", text)


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for name, value in public_objects().items():
        is_error = inspect.isclass(value) and issubclass(value, Exception)
        call = "" if is_error else f"```text\n{signature(name, value)}\n```\n\n"
        parts.append(f"## {name}\n\n{call}{markdown(docstring(value))}\n")
    return "\n".join([*parts, programs(), settings()])


def programs() -> str:
    """Tables of the flags that only one program has."""
    from absl import flags

    from harp_tf import cli_flags, compare, evaluate, export

    definers = {
        "train": (cli_flags.define_recipe,),
        "compare": (compare.define_axes,),
        "evaluate": (cli_flags.define_target, evaluate.define_own),
        "export": (cli_flags.define_target, export.define_own),
    }
    lines = ["## Flags of single programs", ""]
    for program, functions in definers.items():
        before = set(flags.FLAGS)
        for define in functions:
            define()
        lines += [f"`python -m harp_tf.{program}`", "", "| flag | default | |", "|---|---|---|"]
        for name in [name for name in flags.FLAGS if name not in before]:
            flag = flags.FLAGS[name]
            text = " ".join((flag.help or "").split())
            shown = "" if flag.default in (None, []) else f"`{flag.default_as_str.strip(chr(39))}`"
            lines.append(f"| `{name}` | {shown} | {text.replace('|', '/')} |")
            delattr(flags.FLAGS, name)
        lines.append("")
    return "\n".join(lines)


def settings() -> str:
    """The table of the settings of a run."""
    from harp_tf.config import RunConfig, setting_range

    lines = [
        "## Settings of a run",
        "",
        "Each is a flag: `--name=value`.",
        "",
        "| setting | default | |",
        "|---|---|---|",
    ]
    for field in dataclasses.fields(RunConfig):
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        text = field.metadata["help"] + (f" Range: {setting_range(field)}." if setting_range(field) else "")
        if field.metadata["choices"]:
            text += f" One of {', '.join(field.metadata['choices'])}."
        shown = "" if default in (None, "") else f"`{default:.6g}`" if isinstance(default, float) else f"`{default}`"
        lines.append(f"| `{field.name}` | {shown} | {text.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: {len(public_objects())} names")
