"""Whether XNNPACK will use the zeros of a .tflite file on ARM to run faster, and if not, which layer is in the way.

On ARM (on x86 with AVX never) XNNPACK can keep the features channel by channel and skip the zeros of 1x1 convolutions.
It does so for the part of a graph that begins with a certain first convolution and ends in a global average, if it
knows every operator between; one that does not fit and the whole network runs dense.

The rules are those of the section "Sparse Inference" in the README of TFLite's XNNPACK delegate, and of
`xnn_check_nchw_compatibility` and `xnn_subgraph_rewrite_for_nchw` in XNNPACK's src/subgraph.c, which test them; they
were compared with what ai-edge-litert 2.3 does on emulated ARM. Resizing and depth-to-space, which XNNPACK also runs
sparse, are not known here.

Reference:
    Elsen et al., "Fast Sparse ConvNets", CVPR 2020.
"""

import dataclasses

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from harp_tf.deploy.arm_rules import Rules
from harp_tf.deploy.flatbuffer import Source, is_global_average, read_model
from harp_tf.deploy.inspect import read_kernel

_UNARY = frozenset("ABS CEIL ELU FLOOR HARD_SWISH LEAKY_RELU LOGISTIC NEG RELU RELU6 RELU_N1_TO_1 ROUND SQUARE".split())
_ADVICE = {
    "CONV_2D": "Make it a depthwise 3x3 convolution followed by a 1x1 one.",
    "MAX_POOL_2D": "Halve the image in a depthwise convolution: ZeroPadding2D(1), then 3x3, strides=2, 'valid'.",
    "AVERAGE_POOL_2D": "Halve the image in a depthwise convolution; average at the end with GlobalAveragePooling2D.",
    "RESHAPE": "End in GlobalAveragePooling2D() and Dense; do not reshape before.",
    "PAD": "Give each depthwise convolution a ZeroPadding2D of its own, read by nothing else.",
}
_DEPTHWISE = "Use 3x3 or 5x5, no dilation, depth_multiplier=1, and with strides=2 ZeroPadding2D(1 or 2) and 'valid'."
_BODY = "Between the first convolution and the global average use 1x1 and depthwise convolutions, Add, Multiply, ReLU."


@dataclasses.dataclass(frozen=True)
class Finding:
    """A reason why XNNPACK will not run a file sparse.

    Attributes:
        layer: the layer, or the tensor that its operator computes; "file" where the file as a whole is meant.
        rule: "numbers", "storage", "first convolution", "1x1 convolution", "depthwise convolution", "operator", "end"
            or "zeros".
        found: what the file holds.
        advice: what to do.
    """

    layer: str
    rule: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.layer} ({self.rule}): {self.found}. {self.advice}"


def arm_sparse_report(source: Source) -> list[Finding]:
    """Tells whether XNNPACK's sparse inference will apply to a .tflite file on ARM.

    Args:
        source: Path or bytes of a .tflite file, as a rule one of `export_tflite(..., sparse=True)`.

    Returns:
        What is in the way, the file as a whole first, then layer by layer in execution order. An empty list means that
        it applies.

    Raises:
        HarpError: If the file cannot be read or is damaged.
    """
    return Walk(read_model(source)).findings()


class Walk:
    """One pass over the operators of an unpacked file, in execution order."""

    def __init__(self, model: schema.ModelT):
        self._model = model
        self._graph = model.subgraphs[0]
        self._rules = Rules(model)
        self._convolutions = [o for o in self._graph.operators if self._rules.name(o) == "CONV_2D"]
        self._kept_dense = False
        self._pointwise: list[tuple[str, int, int]] = []  # name, zeros, weights

    def findings(self) -> list[Finding]:
        """Everything that is in the way."""
        convolutions = self._convolutions
        if any(self._rules.tensor(int(o.outputs[0])).type != schema.TensorType.FLOAT32 for o in convolutions):
            return [Finding("file", "numbers", "it computes in int8", "Export float32, float16 or int8_weights.")]
        found = []
        if not any(tensor.sparsity is not None for tensor in self._graph.tensors):
            advice = "Export with sparse=True (--sparse); a kernel with too few zeros stays dense."
            found.append(Finding("file", "storage", "no kernel is stored sparsely", advice))
        if not convolutions:
            advice = "Only convolutional networks run sparse on ARM."
            return [*found, Finding("file", "first convolution", "there is no convolution", advice)]
        first = next(iter(self.beginnings()), convolutions[0])
        problem = self._rules.first_problem(first)
        if problem:
            advice = "Begin with ZeroPadding2D(1), then Conv2D(..., 3, strides=2, padding='valid') on three channels."
            found.append(Finding(self._rules.layer(first), "first convolution", problem, advice))
        found += self._body(first) + self._zeros()
        if not found and self._kept_dense:
            found.append(
                Finding(self._rules.layer(first), "operator", "a subtraction of zero keeps it dense", "Remove it.")
            )
        return found

    def beginnings(self) -> list[schema.OperatorT]:
        """The convolutions with which XNNPACK may begin a sparse part: they satisfy the rule for the first one."""
        return [operator for operator in self._convolutions if self._rules.first_problem(operator) is None]

    def _body(self, first: schema.OperatorT) -> list[Finding]:
        found = []
        inside = {int(index) for index in first.outputs}
        ended = False
        operators = self._graph.operators
        for operator in operators[operators.index(first) + 1 :]:
            reads = [int(index) for index in operator.inputs if index >= 0]
            padded = {int(operator.outputs[0])} & self._rules.padded.keys()
            if inside.isdisjoint(reads):
                continue
            if self._rules.is_zero_subtracted(operator):  # by prevent_partial_sparse: other layers are the reason
                self._kept_dense = True
                inside.add(int(operator.outputs[0]))
                continue
            if padded:  # judged with the convolution that reads it
                inside |= padded
                continue
            if is_global_average(self._model, operator):
                ended = True
                continue
            finding = self._finding(operator, [index for index in reads if index not in inside])
            if finding is not None:
                found.append(finding)
            if finding is None or finding.rule != "end":
                inside.update(int(index) for index in operator.outputs)
        if not ended and not any(finding.rule == "end" for finding in found):
            advice = "End in GlobalAveragePooling2D() and Dense."
            found.append(Finding("file", "end", "the features of the image are never averaged", advice))
        return found

    def _finding(self, operator: schema.OperatorT, outside: list[int]) -> Finding | None:
        """What keeps one operator of the body from running sparse."""
        name, layer = self._rules.name(operator), self._rules.layer(operator)
        rule, advice = "operator", _ADVICE.get(name, _BODY)
        problem: str | None = f"XNNPACK has no sparse {name}"
        if name == "CONV_2D" and self._rules.kernel_size(operator) == (1, 1):
            rule, advice = "1x1 convolution", "Use strides=1, groups=1 and no padding."
            problem = self._rules.pointwise_problem(operator)
            if problem is None:
                kernel = read_kernel(self._model, self._rules.kernels[id(operator)])
                self._pointwise.append((layer, int(np.sum(kernel == 0)), kernel.size))
        elif name == "DEPTHWISE_CONV_2D":
            rule, advice = "depthwise convolution", _DEPTHWISE
            problem = self._rules.depthwise_problem(operator)
        elif len(self._rules.tensor(int(operator.outputs[0])).shape) != 4:
            rule, advice = "end", _ADVICE["RESHAPE"]
            problem = f"{name} takes the features of the image without averaging them"
        elif name in ("ADD", "MUL"):
            problem = self._rules.arithmetic_problem(name, outside)
        elif name in _UNARY:
            problem = None
        return Finding(layer, rule, problem, advice) if problem else None

    def _zeros(self) -> list[Finding]:
        zeros = sum(own for _, own, _ in self._pointwise)
        weights = sum(size for _, _, size in self._pointwise)
        if not weights:
            return [
                Finding("file", "zeros", "no 1x1 convolution runs sparse", "Put the weights into 1x1 convolutions.")
            ]
        if 3 * zeros > 2 * weights:
            return []
        return [
            Finding(
                name,
                "zeros",
                f"{own / size:.1%} of it are zero, {zeros / weights:.1%} of all 1x1 convolutions",
                "Prune until more than two thirds of all 1x1 convolutions are zero.",
            )
            for name, own, size in self._pointwise
            if 3 * own <= 2 * size
        ]
