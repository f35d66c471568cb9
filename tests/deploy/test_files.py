"""The files as a whole: every structure at every sparsity, dense and sparse, under both kernel sets."""

import numpy as np
import pytest

from harp_tf.deploy import TFLiteClassifier, kernel_nonzeros

CASES = [
    ("sequential", 0.9),
    ("sequential", 0.999),
    ("residual", 0.95),
    ("residual", 0.99),
    ("separable", 0.9),
    ("dense_only", 0.9),
    ("dense_only", 0.99),
    ("shared", 0.95),
]


@pytest.mark.parametrize("name, sparsity", CASES)
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_nonzeros_of_the_file_equal_keras_layer_by_layer(case, name, sparsity, form):
    made = case(name, sparsity)
    kernels = kernel_nonzeros(getattr(made, form))
    assert {kernel.name: kernel.nonzero for kernel in kernels} == made.nonzeros
    assert all(kernel.layer == kernel.name.rpartition("/")[0] for kernel in kernels)


@pytest.mark.parametrize("name, sparsity", CASES)
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("xnnpack", [True, False])
def test_logits_equal_keras_for_batches_and_single_images(case, name, sparsity, form, xnnpack):
    made = case(name, sparsity)
    classifier = TFLiteClassifier(getattr(made, form), xnnpack=xnnpack)
    assert np.std(made.logits) > 0.05, "the comparison would show nothing"
    np.testing.assert_allclose(classifier.logits(made.images), made.logits, rtol=0, atol=1e-4)
    np.testing.assert_allclose(classifier.logits(made.images[:1]), made.logits[:1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name, sparsity", CASES)
def test_sparse_file_is_smaller(case, name, sparsity):
    made = case(name, sparsity)
    dense_bytes = sum(4 * kernel.weights for kernel in kernel_nonzeros(made.dense) if kernel.weights > 2000)
    stored = sum(7 * kernel.nonzero + 1200 for kernel in kernel_nonzeros(made.sparse) if kernel.weights > 2000)
    assert len(made.sparse) < len(made.dense) - dense_bytes + stored
