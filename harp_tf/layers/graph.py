"""The graph of a Keras model as a flat list of calls, nested models opened."""

import dataclasses
from collections.abc import Callable, Sequence
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

    def execute(self, inputs: Sequence[Any], operation: Callable[[Call], Callable] = lambda c: c.operation) -> list:
        """Runs the graph on tensors, real or symbolic.

        Args:
            inputs: one per input of the graph.
            operation: what to call in place of each call's own operation.

        Returns:
            One result per output of the graph.
        """
        values = {tensor.index: value for tensor, value in zip(self.inputs, inputs, strict=True)}
        for call in self.calls:
            args, kwargs = keras.tree.map_structure(
                lambda a: values[a.index] if isinstance(a, Tensor) else a, (call.args, call.kwargs)
            )
            results = keras.tree.flatten(operation(call)(*args, **kwargs))
            values.update((tensor.index, result) for tensor, result in zip(call.outputs, results, strict=True))
        return [values[tensor.index] for tensor in self.outputs]


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
        # A Sequential model keeps its graph in a Functional of its own. Keras has no public list of nodes.
        functional = model._functional if isinstance(model, keras.Sequential) else model
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

    first = model._functional if isinstance(model, keras.Sequential) else model
    inputs = [new(t) for t in first._inputs]
    outputs = visit(model, inputs, "")
    return Graph(tuple(inputs), tuple(outputs), tuple(calls))
