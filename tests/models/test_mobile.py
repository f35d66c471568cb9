"""mobile_sparse beyond what every model is tested for (test_builders.py)."""

import keras
import numpy as np
import pytest

from harp_tf import models
from harp_tf.types import HarpError


def test_what_halves_the_image_is_padded_explicitly_and_the_rest_is_1x1_or_depthwise():
    model = models.build("mobile_sparse", (48, 64, 3), 10, width=0.25, depth=2)
    halving = []
    for layer in model.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            if layer.strides == (2, 2):
                halving.append(layer.name)
                assert layer.padding == "valid" and layer.kernel_size == (3, 3)
                assert layer.input._keras_history.operation.padding == ((1, 1), (1, 1))
            elif isinstance(layer, keras.layers.Conv2D):
                assert layer.kernel_size == (1, 1)
    assert len(halving) == 4
    assert model.get_layer("pool").input.shape == (None, 3, 4, 128)


def test_blocks_that_keep_the_shape_are_residual():
    model = models.build("mobile_sparse", (32, 32, 3), 10, width=0.25)
    added = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Add)]
    assert added == [f"stage{stage}_block2_add" for stage in (1, 2, 3, 4)]


def test_odd_sizes_and_the_smallest_image_work():
    for size in (16, 33):
        model = models.build("mobile_sparse", (size, size, 3), 10, width=0.125)
        assert np.all(np.isfinite(model(np.zeros((1, size, size, 3), np.float32), training=False)))


def test_a_grey_image_becomes_three_equal_channels():
    model = models.build("mobile_sparse", (32, 32, 1), 10, width=0.125)
    grey = model.get_layer("grey")
    values = grey([np.full((1, 2, 2, 1), 0.25, np.float32)] * 3)
    assert model.get_layer("stem_conv").kernel.shape[2] == 3
    np.testing.assert_array_equal(values, np.full((1, 2, 2, 3), 0.25))


def test_other_images_are_refused():
    with pytest.raises(HarpError, match="needs colour images .* received 4 channels"):
        models.build("mobile_sparse", (32, 32, 4), 10)
