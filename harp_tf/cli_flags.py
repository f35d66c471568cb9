"""The command line: the only place where flags are defined and read."""

import dataclasses
import json
import sys
import types as python_types
import typing
from collections.abc import Callable, Collection
from pathlib import Path

from absl import app, flags

from harp_tf.config import RunConfig
from harp_tf.types import HarpError

EXIT_MISTAKE = 2
"""Exit status for a mistake that the user can mend."""


def define_settings(names: Collection[str] | None = None) -> None:
    """Defines one flag per setting of a run, with its help, default and range.

    Args:
        names: the settings to define, all if None.
    """
    hints = typing.get_type_hints(RunConfig)
    for field in dataclasses.fields(RunConfig):
        if names is None or field.name in names:
            _define(field, _plain_type(hints[field.name]))


def _plain_type(hint) -> type:
    """float for `float | None`, tuple for `tuple[str, ...]`."""
    if isinstance(hint, python_types.UnionType):
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return typing.get_origin(hint) or hint


def _define(field: dataclasses.Field, kind: type) -> None:
    choices, text = field.metadata["choices"], field.metadata["help"]
    if kind is bool:
        flags.DEFINE_boolean(field.name, field.default, text)
    elif kind is int:
        flags.DEFINE_integer(field.name, field.default, text)
    elif kind is float:
        flags.DEFINE_float(field.name, field.default, text)
    elif kind is tuple:
        flags.DEFINE_list(field.name, list(field.default), text)
    elif choices:
        flags.DEFINE_enum(field.name, field.default, list(choices), text)
    else:
        flags.DEFINE_string(field.name, field.default, text)


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
    flags.DEFINE_string("target", None, "Run directory or .keras file.", required=True)


def settings_for_target(stage: str) -> RunConfig:
    """The settings of the run that --target names, with the flags that the user gave in their place.

    Args:
        stage: the one stage to run on it.

    Returns:
        The settings; those of the flags alone if the target is a file.

    Raises:
        HarpError: if the target does not exist, or the settings of its run cannot be read.
    """
    target = Path(flags.FLAGS.target)
    if not target.exists():
        raise HarpError(f"There is no {target}. --target names a run directory or a .keras file.")
    stored = _stored_settings(target / "config.json") if target.is_dir() else {}
    given = {name: value for name, value in _flag_values().items() if name in given_flags()}
    return RunConfig(**{**stored, **given, "stages": (stage,), "run_dir": str(target), "init_from": None})


def _stored_settings(path: Path) -> dict:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["flags"]
        known = {field.name for field in dataclasses.fields(RunConfig)}
        return {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in known}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HarpError(f"{path} does not hold the settings of a run ({error}). Is this a run directory?") from error


def given_flags() -> list[str]:
    """Names of the flags that the user set, on the command line or in a flagfile."""
    return [flag.name for flag in flags.FLAGS.get_flags_for_module(__name__) if flag.present]


def run(main: Callable[[], None]) -> None:
    """Runs a command-line program: parses the flags, and turns a user's mistake into one line.

    Args:
        main: the program; it reads its flags itself.
    """

    def guarded(arguments: list[str]) -> None:
        try:
            if len(arguments) > 1:
                raise HarpError(f"Unexpected argument {arguments[1]!r}. Flags are written --name=value.")
            main()
        except HarpError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(EXIT_MISTAKE)

    app.run(guarded, flags_parser=_parse)


def _parse(arguments: list[str]) -> list[str]:
    try:
        return flags.FLAGS(arguments)
    except (flags.Error, UnicodeDecodeError, OSError, RecursionError) as error:
        print(f"error: {error}. See --help.", file=sys.stderr)
        sys.exit(EXIT_MISTAKE)
