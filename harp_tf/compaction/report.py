"""What compaction did to a model, as a table."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class LayerChange:
    """One layer with a kernel.

    Attributes:
        name: its name in the compact model.
        channels_before: output channels in the given model.
        channels_after: output channels in the compact model; 0 if the layer is gone.
        weights_before: weights of its kernel in the given model.
        weights_after: weights of its kernel in the compact model.
    """

    name: str
    channels_before: int
    channels_after: int
    weights_before: int
    weights_after: int


@dataclasses.dataclass(frozen=True)
class CompactionReport:
    """What was done to a model.

    Attributes:
        layers: the layers with kernels that compaction knows, in the order of the network.
        left_alone: class and reason by name of the layers that were left as they are, their inputs complete.
        parameters_before: all weights of the given model, biases and statistics included.
        parameters_after: all weights of the compact one.
        difference: largest difference of an output on random inputs, relative to the spread of the outputs.
        cut: the layers where the model loses its input, () if its outputs depend on that.
    """

    layers: tuple[LayerChange, ...]
    left_alone: dict[str, str]
    parameters_before: int
    parameters_after: int
    difference: float
    cut: tuple[str, ...] = ()

    def __str__(self) -> str:
        width = max((len(layer.name) for layer in self.layers), default=0)
        width = max(width, len("parameters"))
        lines = [f"{'layer':{width}}  {'channels':>16}  {'weights':>26}"]
        for layer in self.layers:
            lines.append(
                f"{layer.name:{width}}  {layer.channels_before:6,} -> {layer.channels_after:6,}"
                f"  {layer.weights_before:11,} -> {layer.weights_after:11,}{_note(layer)}"
            )
        lines.append(f"{'parameters':{width}}  {'':16}  {self.parameters_before:11,} -> {self.parameters_after:11,}")
        lines.append(f"outputs differ by {self.difference:.1e} of their spread")
        if self.cut:
            lines.append(f"cut in two at {', '.join(self.cut)}: the outputs are the same for every input")
        lines += [f"left alone: {name} ({reason})" for name, reason in self.left_alone.items()]
        return "\n".join(lines)


def _note(layer: LayerChange) -> str:
    if layer.channels_after == 0:
        return "  gone: its outputs are constant or not used"
    if layer.channels_after == 1 < layer.channels_before:
        return "  a single channel: all that passes here goes through it"
    return ""
