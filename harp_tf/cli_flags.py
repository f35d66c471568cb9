"""The command line: the flags that are settings of a run, how all are parsed, and how a program ends."""

import dataclasses
import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tensorflow as tf
from absl import app, flags

from harp_tf import models
from harp_tf.baselines import METHODS
from harp_tf.config import RunConfig, setting_range, setting_type
from harp_tf.reading import LIMIT, read_json, read_text
from harp_tf.recipes import RECIPES
from harp_tf.types import HarpError, parse_number

_FLAGFILE = ("--flagfile", "-flagfile")
_RECIPE = ("--recipe", "-recipe")
_MOST_FLAGFILES = 1000

EXIT_MISTAKE = 2
"""Exit status for a mistake that the user can mend."""


class _Number(flags.FloatParser):
    """A float flag that takes quotients too: 8/255."""

    def convert(self, argument: Any) -> float:
        return parse_number(argument) if isinstance(argument, str) else super().convert(argument)


def define_settings(names: Collection[str] | None = None) -> None:
    """Defines one flag per setting of a run, with its help, default and range.

    Args:
        names: the settings; default: all.
    """
    for field in dataclasses.fields(RunConfig):
        if names is None or field.name in names:
            _define(field)


def _define(field: dataclasses.Field) -> None:
    kind, choices, limits = setting_type(field), field.metadata["choices"], setting_range(field)
    text = field.metadata["help"] + (f" Range: {limits}." if limits else "")
    default: Any = field.default
    if kind is bool:
        flags.DEFINE_boolean(field.name, default, text)
    elif kind is int:
        flags.DEFINE_integer(field.name, default, text)
    elif kind is float:
        flags.DEFINE(_Number(), field.name, default, text, serializer=flags.ArgumentSerializer())
    elif kind is tuple:
        flags.DEFINE_list(field.name, list(default), text)
    elif isinstance(choices, tuple):
        flags.DEFINE_enum(field.name, default, list(choices), text)
    elif choices:  # more may be registered by the modules of --import_modules, so the settings check it
        flags.DEFINE_string(field.name, default, f"{text} One of {', '.join(choices)}, or one that is registered.")
    else:
        flags.DEFINE_string(field.name, default, text)


def define_recipe() -> None:
    """Defines --recipe, which stands for the settings of a recipe: flags after it win over it, those before it lose."""
    texts = {name: ", ".join(f"{key}={value}" for key, value in recipe.items()) for name, recipe in RECIPES.items()}
    known = "; ".join(f"{name}: {text}" for name, text in texts.items())
    flags.DEFINE_enum(
        "recipe",
        None,
        list(RECIPES),
        "Settings of HARP under one name, see docs/recipe.md; flags after it win over it, and it over those before. "
        f"{known}.",
    )


def read_settings() -> RunConfig:
    """Reads the flags into a checked `RunConfig`.

    Raises:
        HarpError: if a value is out of its range.
    """
    return RunConfig(**_flag_values())


def _flag_values() -> dict:
    values = {f.name: flags.FLAGS[f.name].value for f in dataclasses.fields(RunConfig) if f.name in flags.FLAGS}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def define_target() -> None:
    """Defines --target, which evaluate and export work on."""
    flags.DEFINE_string("target", None, "Run directory or model file.", required=True)


def settings_for_target(stage: str, suffixes: tuple[str, ...] = (".keras",)) -> RunConfig:
    """The settings of the run that --target names, with the flags that the user gave in their place.

    Args:
        stage: the one stage to run on it.
        suffixes: of the files that may be targets.

    Returns:
        The settings; those of the flags alone if the target is a file.

    Raises:
        HarpError: if the target is neither a run directory nor such a file, or its settings cannot be read.
    """
    target = Path(flags.FLAGS.target)
    if not target.is_dir() and not (target.is_file() and target.suffix in suffixes):
        found = "is another kind of file" if target.exists() else "does not exist"
        kinds = " or ".join(suffixes)
        raise HarpError(f"--target must be a run directory or a {kinds} file, received {str(target)!r}, which {found}.")
    stored = _stored_settings(target) if target.is_dir() else {}
    given = {name: value for name, value in _flag_values().items() if name in given_flags()}
    # What the run did with its own directory is not to be done again: --restart would remove what is looked at.
    # Nor are modules imported that only a file names: a run directory may be somebody else's.
    stored.pop("import_modules", None)
    if "eps" in given and stored.get("eps") and stored.get("eval_step_size") is not None:
        stored["eval_step_size"] *= given["eps"] / stored["eps"]  # the step belongs to the radius it was chosen for
    fixed = {"stages": (stage,), "run_dir": str(target), "init_from": None, "restart": False}
    return RunConfig(**{**stored, **given, **fixed})


def _stored_settings(run_dir: Path) -> dict:
    path, advice = run_dir / "config.json", "Restore it, or train again"
    if not path.exists():
        raise HarpError(f"--target must be a run directory or a .keras file; {str(run_dir)!r} holds no config.json.")
    try:
        stored = read_json(path)["flags"]
        known = {field.name for field in dataclasses.fields(RunConfig)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in known}
        if values.get("method") not in (None, *METHODS):
            advice = "Name the module that registers this method with --import_modules=MODULE"
        RunConfig(**values)
        return values
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).rstrip(".") if isinstance(error, ValueError) else repr(error)
        raise HarpError(f"{path} does not hold the settings of a run: {reason}. {advice}.") from error


def given_flags() -> list[str]:
    """Names of the flags that the user set, on the command line or in a flagfile."""
    return [flag.name for flag in flags.FLAGS.get_flags_for_module(__name__) if flag.present]


def run(main: Callable[[], None]) -> None:
    """Runs a command-line program: parses the flags, imports the user's modules, turns a mistake into one line.

    Args:
        main: the program; it reads its flags itself.
    """

    def guarded(arguments: list[str]) -> None:
        try:
            if len(arguments) > 1:
                raise HarpError(f"Unexpected argument {arguments[1]!r}. Flags are written --name=value.")
            for module in flags.FLAGS.import_modules:  # first: they may register methods, which settings name
                models.import_module(module)
            main()
        except (HarpError, OSError) as error:
            _exit(str(error))
        except tf.errors.ResourceExhaustedError as error:
            _exit(f"A device has too little memory ({_short(error)}). Lower --batch_size, or raise --accumulate.")
        except tf.errors.DataLossError as error:
            _exit(f"A file of the data set is damaged ({_short(error)}). Prepare the data set anew.")

    for flag in flags.FLAGS.get_flags_for_module(__name__):
        # --help shows the flags of the main module only.
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(guarded, flags_parser=_parse)


def _parse(arguments: list[str]) -> list[str]:
    try:
        _check_flagfiles(arguments[1:])
        # As absl does it first, too; then a recipe in a flagfile stands at its place among all flags.
        given = flags.FLAGS.read_flags_from_files(arguments[1:], force_gnu=False)
        return flags.FLAGS([*arguments[:1], *(_with_recipes(given) if "recipe" in flags.FLAGS else given)])
    except UnicodeDecodeError as error:
        _exit(f"A flagfile is no UTF-8 text: {error}.")
    except (flags.Error, OSError, ValueError, RecursionError) as error:
        _exit(f"{str(error).removeprefix('ERROR:: ').rstrip('.')}. See --help.")


def _with_recipes(arguments: Sequence[str]) -> list[str]:
    """The arguments with the settings of each recipe behind its name."""
    found = []
    for before, argument in zip(["", *arguments], arguments):
        found.append(argument)
        name, equals, value = argument.partition("=")
        chosen = value if name in _RECIPE and equals else argument if before in _RECIPE else ""
        found += [f"--{setting}={value}" for setting, value in RECIPES.get(chosen, {}).items()]
    return found


def _check_flagfiles(arguments: list[str]) -> None:
    """Refuses flagfiles that absl would read without end: pipes, devices, and files that include one another."""
    left = [
        value if name in _FLAGFILE and equals else following
        for argument, following in zip(arguments, [*arguments[1:], ""])
        for name, equals, value in [argument.partition("=")]
        if name in _FLAGFILE
    ]
    read = size = 0
    while left:
        name = os.path.expanduser(left.pop().strip())
        if not name:
            continue
        text = read_text(name)
        read, size = read + 1, size + len(text)
        if read > _MOST_FLAGFILES or size > LIMIT:
            raise HarpError(f"More than {_MOST_FLAGFILES} flagfiles or {LIMIT // 2**20} MiB, the last of them {name!r}")
        lines = (line.partition("=") for line in text.splitlines())
        left += [value for start, equals, value in lines if start in _FLAGFILE and equals]


def _short(error: tf.errors.OpError) -> str:
    return " ".join(error.message.split())[:200]


def _exit(message: str) -> NoReturn:
    print("error:", " ".join(message.splitlines()), file=sys.stderr)
    sys.exit(EXIT_MISTAKE)
