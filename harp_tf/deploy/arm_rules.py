"""The rules of XNNPACK's sparse inference for single operators; `arm_sparse` applies them to a graph."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from harp_tf.deploy.flatbuffer import int_constant, operator_name, tensor_name, weight_tensors


class Rules:
    """Says of an operator what is wrong with it, or None.

    Attributes:
        padded: tensor -> [2, 2], the rows of zeros above, below, left and right that PAD operators read by one
            convolution alone put around it; XNNPACK makes them the padding of that convolution.
        kernels: id of an operator -> index of its constant kernel.
    """

    def __init__(self, model: schema.ModelT):
        self._model = model
        self._graph = model.subgraphs[0]
        self.kernels = {id(user): weight.index for weight in weight_tensors(model) for user in weight.operators}
        self.padded = self._paddings()

    def first_problem(self, operator: schema.OperatorT) -> str | None:
        """What is wrong with the convolution that a sparse part begins with."""
        options, size = operator.builtinOptions, self.kernel_size(operator)
        channels = self._channels(operator)
        if size != (3, 3):
            return f"its kernel is {size[0]}x{size[1]}, not 3x3"
        if (options.strideH, options.strideW) != (2, 2):
            return f"its stride is {options.strideH}, not 2"
        if channels != 3:
            return f"it reads {channels} channel(s), not 3: repeat a grey channel three times with Concatenate"
        return self._grouped(operator) or _dilated(options) or self._padding_problem(operator, 1)

    def pointwise_problem(self, operator: schema.OperatorT) -> str | None:
        """What is wrong with a 1x1 convolution."""
        options = operator.builtinOptions
        if id(operator) not in self.kernels:
            return "its kernel is computed"
        if (options.strideH, options.strideW) != (1, 1):
            return f"its stride is {options.strideH}"
        return self._grouped(operator) or self._padding_problem(operator, 0)

    def depthwise_problem(self, operator: schema.OperatorT) -> str | None:
        """What is wrong with a depthwise convolution."""
        options, size = operator.builtinOptions, self.kernel_size(operator)
        if size not in ((3, 3), (5, 5)):
            return f"its kernel is {size[0]}x{size[1]}"
        if (options.strideH, options.strideW) not in ((1, 1), (2, 2)):
            return f"its stride is {options.strideH}x{options.strideW}"
        if options.depthMultiplier != 1:
            return f"its depth multiplier is {options.depthMultiplier}"
        return _dilated(options) or self._padding_problem(operator, size[0] // 2)

    def arithmetic_problem(self, name: str, outside: list[int]) -> str | None:
        """What is wrong with ADD or MUL, of whose inputs those in `outside` are no features of the sparse part."""
        for index in outside:
            tensor = self.tensor(index)
            if self._model.buffers[tensor.buffer].data is None:
                return f"{name} also reads {tensor_name(tensor)!r}, which is computed outside"
            if len(tensor.shape) != 4:
                return f"{name} has a constant of {len(tensor.shape)} dimensions, not 4"
        return None

    def is_zero_subtracted(self, operator: schema.OperatorT) -> bool:
        """Whether an operator subtracts zero, as `prevent_partial_sparse` lets it."""
        if self.name(operator) != "SUB":
            return False
        bits = int_constant(self._model, int(operator.inputs[1]))
        return bits is not None and not bits.any()

    def kernel_size(self, operator: schema.OperatorT) -> tuple[int, int]:
        """Height and width of the kernel."""
        height, width = self.tensor(int(operator.inputs[1])).shape[1:3]
        return int(height), int(width)

    def layer(self, operator: schema.OperatorT) -> str:
        """The layer of an operator with a kernel; the name of what another one computes."""
        if id(operator) in self.kernels:
            return tensor_name(self.tensor(self.kernels[id(operator)])).rpartition("/")[0]
        return tensor_name(self.tensor(int(operator.outputs[0]))).split(";")[0]  # fused operators list all names

    def tensor(self, index: int) -> schema.TensorT:
        """A tensor of the main graph."""
        return self._graph.tensors[index]

    def name(self, operator: schema.OperatorT) -> str:
        """Name of an operator."""
        return operator_name(self._model, operator)

    def _paddings(self) -> dict[int, np.ndarray]:
        readers: dict[int, list[str]] = {int(index): ["output"] for index in self._graph.outputs}
        for operator in self._graph.operators:
            for index in operator.inputs:
                readers.setdefault(int(index), []).append(self.name(operator))
        paddings = {}
        for operator in self._graph.operators:
            if self.name(operator) == "PAD":
                output = int(operator.outputs[0])
                amounts = int_constant(self._model, int(operator.inputs[1]))
                alone = readers.get(output) in (["CONV_2D"], ["DEPTHWISE_CONV_2D"])
                if alone and amounts is not None and amounts.size == 8 and not amounts.reshape(4, 2)[[0, 3]].any():
                    paddings[output] = amounts.reshape(4, 2)[1:3]
        return paddings

    def _padding_problem(self, operator: schema.OperatorT, wanted: int) -> str | None:
        options = operator.builtinOptions
        pads = self.padded.get(int(operator.inputs[0]), np.zeros((2, 2), int))
        if options.padding == schema.Padding.SAME:
            if (options.strideH, options.strideW) != (1, 1):
                return "its padding is 'same', which with stride 2 depends on the size of the image"
            pads = pads + np.array(self.kernel_size(operator))[:, None] // 2
        if np.all(pads == wanted):
            return None
        (top, bottom), (left, right) = pads.tolist()
        return (
            f"it is padded by {top}, {bottom}, {left}, {right} (top, bottom, left, right), not by {wanted} everywhere"
        )

    def _grouped(self, operator: schema.OperatorT) -> str | None:
        read = int(self.tensor(int(operator.inputs[1])).shape[-1])
        return None if read == self._channels(operator) else f"it has {self._channels(operator) // read} groups"

    def _channels(self, operator: schema.OperatorT) -> int:
        return int(self.tensor(int(operator.inputs[0])).shape[-1])


def _dilated(options: schema.Conv2DOptionsT | schema.DepthwiseConv2DOptionsT) -> str | None:
    dilation = max(options.dilationHFactor, options.dilationWFactor)
    return None if dilation == 1 else f"its dilation is {dilation}"
