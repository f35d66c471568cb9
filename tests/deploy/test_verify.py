import keras
import numpy as np
import pytest
from keras import layers

from harp_tf.deploy import kernel_nonzeros, sparsify, to_tflite, verify
from harp_tf.deploy.flatbuffer import read_model, weight_tensors, write_model
from harp_tf.types import HarpError


def edited(data, layer, change):
    """The file with the kernel of one layer, or with its data if sparse, changed in place."""
    file = read_model(data)
    for weight in weight_tensors(file):
        tensor = file.subgraphs[0].tensors[weight.index]
        if tensor.name == f"{layer}/kernel".encode():
            buffer = file.buffers[tensor.buffer]
            values = buffer.data.view(np.float32).copy()
            change(values)
            buffer.data = values.view(np.uint8)
    return write_model(file)


@pytest.mark.parametrize("name, sparsity", [("sequential", 0.9), ("residual", 0.99), ("shared", 0.95)])
def test_good_files_pass(case, name, sparsity):
    made = case(name, sparsity)
    for data in (made.dense, made.sparse):
        verification = verify(data, made.model, made.images)
        assert verification.max_logit_difference <= verification.allowed_difference
        assert verification.folded_weights == 0
        assert list(verification.kernels) == kernel_nonzeros(data)


def test_moved_weight_is_found_and_its_layer_named(small):
    def move(values):
        source, target = np.flatnonzero(values)[0], np.flatnonzero(values == 0)[0]
        values[target], values[source] = values[source], 0

    with pytest.raises(HarpError, match=r"'conv2/kernel'.*placed otherwise"):
        verify(edited(small.dense, "conv2", move), small.model, small.images)


def test_additional_weight_is_found_and_counted(small):
    def add(values):
        values[np.flatnonzero(values == 0)[5]] = 1e-3

    nonzero = small.nonzeros["dense1/kernel"]
    with pytest.raises(HarpError, match=rf"{nonzero} non-zeros in place; received {nonzero + 1} non-zeros"):
        verify(edited(small.dense, "dense1", add), small.model, small.images)


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_changed_value_fails_the_logits_and_names_the_layer(small, form):
    def change(values):
        values[np.argmax(np.abs(values))] *= 1.5

    with pytest.raises(HarpError, match=r"under XNNPACK\. Kernels .* differ .*: logits/kernel\."):
        verify(edited(getattr(small, form), "logits", change), small.model, small.images)


def test_zeroed_kernel_does_not_pass_as_folded(small):
    with pytest.raises(HarpError, match="Expected logits within"):
        verify(edited(small.dense, "conv2", lambda values: values.fill(0)), small.model, small.images)


def test_nan_fails(small):
    def change(values):
        values[np.argmax(np.abs(values))] = np.nan

    with pytest.raises(HarpError, match="difference of nan"):
        verify(edited(small.dense, "conv1", change), small.model, small.images)


def test_file_of_another_model_fails(small, case):
    with pytest.raises(HarpError, match="'conv1/kernel'"):
        verify(case("residual", 0.95).dense, small.model, small.images)


def test_custom_operator_is_named(small):
    file = read_model(small.dense)
    file.operatorCodes[file.subgraphs[0].operators[1].opcodeIndex].customCode = b"FlexErf"
    with pytest.raises(HarpError, match="FlexErf"):
        verify(write_model(file), small.model, small.images)


def test_weights_folded_to_zero_by_a_batch_norm_are_counted_apart():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(5),
        ]
    )
    model.layers[1].gamma.assign([1, 0, 2, 1, 0, 1, 1, 1])
    data = to_tflite(model)
    images = np.random.default_rng(0).random((4, 8, 8, 4), np.float32)
    assert verify(data, model, images).folded_weights == 2 * 3 * 3 * 4
    assert verify(sparsify(data), model, images).folded_weights == 2 * 3 * 3 * 4


def test_denormal_weight_that_underflows_is_counted_apart():
    model = keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Conv2D(3, 3, use_bias=False), layers.BatchNormalization(), layers.Flatten()]
    )
    model.layers[1].moving_variance.assign([100, 100, 100])
    kernel = model.layers[0].kernel.numpy()
    kernel[1, 1, 0, 2] = 1e-45
    model.layers[0].kernel.assign(kernel)
    images = np.random.default_rng(0).random((2, 4, 4, 2), np.float32)
    assert verify(to_tflite(model), model, images).folded_weights == 1


def test_tolerance_is_absolute_for_small_logits_and_grows_with_large_ones(small):
    assert verify(small.dense, small.model, small.images).allowed_difference == pytest.approx(
        1e-4 * max(1, small.logits.std())
    )
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_initializer="ones")])
    images = np.random.default_rng(0).random((4, 4), np.float32)
    assert verify(to_tflite(model), model, 0.01 * images).allowed_difference == 1e-4
    allowed = verify(to_tflite(model), model, 1000 * images).allowed_difference
    assert allowed == pytest.approx(1e-4 * np.std(model(1000 * images)))


def test_infinite_keras_logits_are_an_error():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    model.layers[0].bias.assign([np.inf, 0, 0])
    with pytest.raises(HarpError, match="finite"):
        verify(to_tflite(model), model, np.zeros((1, 4), np.float32))


@pytest.mark.parametrize("shape", [(0, 12, 12, 3), (12, 12, 3)])
def test_images_of_another_shape_are_refused(small, shape):
    with pytest.raises(HarpError, match="Expected images"):
        verify(small.dense, small.model, np.zeros(shape, np.float32))
