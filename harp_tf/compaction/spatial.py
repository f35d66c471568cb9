"""Layers that work on the positions of every channel in the same way: pooling, padding, cropping, upsampling."""

from collections.abc import Sequence

import numpy as np
from keras import layers

from harp_tf.compaction.analysis import Analysis
from harp_tf.compaction.elementwise import Tied
from harp_tf.compaction.nodes import Node
from harp_tf.compaction.rule import Rule
from harp_tf.compaction.values import Value


class Averaging(Tied):
    """Weighted means of positions of one channel: constants stay, and so do multiples of one pattern.

    Average pooling counts no padding, so it is exact at borders too.
    """

    def forward(self, node: Node, analysis: Analysis) -> Sequence[Value | None]:
        return [analysis.value(node.inputs[0])]


class UpSampling(Averaging):
    """Upsampling, as far as it never makes a pattern negative."""

    def refuses(self, node: Node) -> str | None:
        interpolation = getattr(node.operation, "interpolation", "nearest")
        return None if interpolation in ("nearest", "bilinear") else f"{interpolation} interpolation"


class Maximum(Tied):
    """Maximum pooling: constants stay; multiples of one pattern do if they are not negative."""

    def forward(self, node: Node, analysis: Analysis) -> Sequence[Value | None]:
        value = analysis.value(node.inputs[0])
        if value.uniform:
            return [value]
        return [Value(np.where(value.coefficients >= 0, value.coefficients, np.nan), False)]


class Padding(Tied):
    """Padding with zeros: constants become multiples of one pattern."""

    def forward(self, node: Node, analysis: Analysis) -> Sequence[Value | None]:
        return [Value(analysis.value(node.inputs[0]).coefficients, uniform=False)]


LAYERS: dict[type, Rule] = {
    **dict.fromkeys((layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D), Averaging()),
    **dict.fromkeys((layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D), Averaging()),
    **dict.fromkeys((layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D), UpSampling()),
    **dict.fromkeys((layers.Cropping1D, layers.Cropping2D, layers.Cropping3D), Averaging()),
    **dict.fromkeys((layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D), Maximum()),
    **dict.fromkeys((layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D), Maximum()),
    **dict.fromkeys((layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D), Padding()),
    layers.GlobalAveragePooling1D: Averaging(),
}
