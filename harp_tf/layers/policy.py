"""Which layers are left unpruned: by name, path, pattern, class, layer or function."""

import re
from collections.abc import Callable, Iterable
from typing import TypeAlias

import keras

from harp_tf.layers.rebuild import visit
from harp_tf.types import HarpError

Test = Callable[[str, keras.layers.Layer], bool]
Rule: TypeAlias = str | re.Pattern | type | keras.layers.Layer | Test
Skip: TypeAlias = Rule | Iterable[Rule]


def leave_alone(skip: Skip, model: keras.Model) -> Test:
    """Makes one function (path, layer) -> bool of all that `skip` may be.

    Args:
        skip: one rule or several. A string is the name or the path of a layer or nested model, a pattern is searched
            in paths, a class stands for its instances and a layer for itself; what lies inside of such a layer is
            left alone too. A function (path, layer) -> bool is asked about each layer with a kernel.
        model: the model that the rules are for.

    Raises:
        HarpError: if a rule is none of these, or matches nothing in the model.
    """
    if callable(skip) or isinstance(skip, (str, re.Pattern)) or not isinstance(skip, Iterable):
        rules = [skip]
    else:
        rules = list(skip)
    functions: list[Test] = []
    roots: set[str] = set()
    unmatched = []
    layers = dict(visit(model))
    for rule in rules:
        test = _test(rule)
        if test is rule:
            functions.append(test)
            continue
        found = {path for path, layer in layers.items() if test(path, layer)}
        roots |= found
        if not found:
            unmatched.append(_text(rule))
    if unmatched:
        raise HarpError(
            f"skip names layers that model {model.name!r} does not have: {', '.join(sorted(unmatched))}. "
            f"It has {', '.join(path for path, layer in layers.items() if path and layer.weights)}."
        )

    def left(path: str, layer: keras.layers.Layer) -> bool:
        parts = path.split("/")
        above = {"/".join(parts[: i + 1]) for i in range(len(parts))}
        return not above.isdisjoint(roots) or any(function(path, layer) for function in functions)

    return left


def _test(rule: Rule) -> Test:
    if isinstance(rule, str):
        return lambda path, layer: rule in (path, path.rpartition("/")[2])
    if isinstance(rule, re.Pattern):
        return lambda path, layer: rule.search(path) is not None
    if isinstance(rule, type):
        return lambda path, layer: isinstance(layer, rule)
    if isinstance(rule, keras.layers.Layer):
        return lambda path, layer: layer is rule
    if callable(rule):
        return rule
    raise _unknown(rule)


def _text(rule: Rule) -> str:
    if isinstance(rule, re.Pattern):
        return f"the pattern {rule.pattern!r}"
    if isinstance(rule, type):
        return f"instances of {rule.__name__}"
    return f"the layer {rule.name!r}" if isinstance(rule, keras.layers.Layer) else repr(rule)


def _unknown(rule: object) -> HarpError:
    return HarpError(
        "skip takes names, paths, compiled patterns, layer classes, layers, functions (path, layer) -> bool, or a list "
        f"of them, received {rule!r}."
    )
