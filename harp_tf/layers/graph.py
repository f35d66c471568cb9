"""The graph of a Keras model as a flat list of calls, nested models opened."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from harp_tf.layers.rebuild import is_graph, require_graph


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a graph.

    Attributes:
        index: its number in the graph.
        shape: its static shape, batch axis first (None).
        dtype: name of its dtype.
    """

    index: int
    shape: tuple[int | None, ...]
    dtype: str


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer or operation; a layer that is used twice has two calls.

    Attributes:
        path: path of the layer as `walk` names it; operations without weights have one too.
        operation: the layer or operation, never a nested model or an Input.
        args: its positional arguments, with a `Tensor` wherever a tensor is passed.
        kwargs: its keyword arguments, likewise.
        outputs: the tensors that it makes.
    """

    path: str
    operation: keras.Operation
    args: tuple
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """All tensors among the arguments, in order."""
        return tuple(t for t in keras.tree.flatten((self.args, self.kwargs)) if isinstance(t, Tensor))


@dataclasses.dataclass(frozen=True)
class Graph:
    """The calls of a model in an order in which they can be executed.

    Attributes:
        inputs: the tensors that the model is called with.
        outputs: the tensors that it returns.
        calls: every call; all those that lead to no output are included.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    calls: tuple[Call, ...]


def functional_of(model: keras.Model) -> keras.Model:
    """The model that holds the graph: a Sequential model keeps a Functional of its own, others are it themselves."""
    return model._functional if isinstance(model, keras.Sequential) else model


def graph_of(model: keras.Model) -> Graph:
    """Lists the calls of a built Sequential or Functional model, nested ones opened.

    Raises:
        HarpError: if `model` is not such a model.
    """
    require_graph(model)
    calls: list[Call] = []
    count = 0

    def new(symbolic: keras.KerasTensor) -> Tensor:
        nonlocal count
        count += 1
        return Tensor(count - 1, tuple(symbolic.shape), keras.backend.standardize_dtype(symbolic.dtype))

    def visit(model: keras.Model, given: Sequence[Tensor], prefix: str) -> list[Tensor]:
        functional = functional_of(model)  # Keras has no public list of its nodes
        tensors: dict[int, Tensor] = {id(t): g for t, g in zip(functional._inputs, given, strict=True)}
        for depth in sorted(functional._nodes_by_depth, reverse=True):
            for node in functional._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                args, kwargs = keras.tree.map_structure(
                    lambda a: tensors[id(a)] if isinstance(a, keras.KerasTensor) else a,
                    (node.arguments.args, node.arguments.kwargs),
                )
                if is_graph(node.operation):
                    handed = [t for t in keras.tree.flatten((args, kwargs)) if isinstance(t, Tensor)]
                    made = visit(node.operation, handed, f"{prefix}{node.operation.name}/")
                else:
                    made = [new(t) for t in node.output_tensors]
                    path = f"{prefix}{node.operation.name}"
                    calls.append(Call(path, node.operation, tuple(args), kwargs, tuple(made)))
                tensors.update((id(t), m) for t, m in zip(node.output_tensors, made, strict=True))
        return [tensors[id(t)] for t in functional._outputs]

    first = functional_of(model)
    inputs = [new(t) for t in first._inputs]
    outputs = visit(model, inputs, "")
    return Graph(tuple(inputs), tuple(outputs), tuple(calls))
