import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis.extra import numpy as hypothesis_numpy

from harp_tf.deploy.encoding import decode, encode, encode_rows, encoded_bytes
from harp_tf.types import HarpError

DENSE, SPARSE = schema.DimensionType.DENSE, schema.DimensionType.SPARSE_CSR


def sparse_level(segments, indices):
    return schema.DimensionMetadataT(
        format=SPARSE,
        arraySegments=schema.Int32VectorT(np.array(segments, np.int32)),
        arrayIndices=schema.Int32VectorT(np.array(indices, np.int32)),
    )


def dense_level(size):
    return schema.DimensionMetadataT(format=DENSE, denseSize=size)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
    hypothesis_numpy.array_shapes(min_dims=1, max_dims=4, max_side=7).flatmap(
        lambda shape: hypothesis_numpy.arrays(
            np.float32, shape, elements=st.sampled_from([0, 0, 0, 0, -0.0, 1, -2.5, 1e-40]), fill=st.nothing()
        )
    )
)
def test_decode_inverts_encode(dense):
    values, sparsity = encode(dense)
    decoded = decode(values, sparsity, dense.shape)
    np.testing.assert_array_equal(decoded, dense)
    assert decoded.dtype == np.float32
    assert values.size == max(1, np.count_nonzero(dense))


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
    st.integers(1, 6),
    st.integers(1, 5),
    st.sampled_from([1, 4]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_decode_inverts_the_rows_and_blocks_of_fully_connected_kernels(rows, blocks, block, seed, density):
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(rows, blocks * block)) * (rng.random((rows, blocks * block)) < density)
    values, sparsity = encode_rows(dense, block)
    np.testing.assert_array_equal(decode(values, sparsity, dense.shape), dense)
    occupied = dense.reshape(rows, blocks, block).any(axis=2).sum()
    assert values.size == max(1, occupied) * block
    assert [level.format for level in sparsity.dimMetadata] == [DENSE, SPARSE, DENSE][: 2 if block == 1 else 3]


def test_matrix_is_stored_as_compressed_rows():
    dense = np.zeros((4, 300), np.float32)
    dense[0, 299], dense[2, 0], dense[2, 7] = 1, 2, 3
    values, sparsity = encode(dense)
    assert values.tolist() == [1, 2, 3]
    assert sparsity.traversalOrder.tolist() == [0, 1]
    rows, columns = sparsity.dimMetadata
    assert (rows.format, rows.denseSize) == (DENSE, 4)
    assert columns.arraySegments.values.tolist() == [0, 1, 1, 3, 3]
    assert columns.arrayIndices.values.tolist() == [299, 0, 7]
    assert columns.arraySegments.values.dtype == np.uint8
    assert columns.arrayIndices.values.dtype == np.uint16
    assert encoded_bytes(values, sparsity) == 3 * 4 + 5 + 3 * 2


@pytest.mark.parametrize("size, dtype", [(256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.int32)])
def test_index_type_is_the_smallest_that_holds_the_largest_index(size, dtype):
    dense = np.zeros(size, np.float32)
    dense[-1] = 1
    values, sparsity = encode(dense)
    assert sparsity.dimMetadata[0].arrayIndices.values.dtype == dtype
    np.testing.assert_array_equal(decode(values, sparsity, dense.shape), dense)


@pytest.mark.parametrize("count, dtype", [(255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.int32)])
def test_segment_type_is_the_smallest_that_holds_the_count(count, dtype):
    dense = np.ones(count, np.float32)
    assert encode(dense)[1].dimMetadata[0].arraySegments.values.dtype == dtype


def test_short_inner_axis_is_traversed_outside():
    dense = np.zeros((64, 3, 3, 2), np.float32)
    dense.reshape(-1)[::20] = 1
    values, sparsity = encode(dense)
    assert sparsity.traversalOrder[-1] == 0
    by_row = 4 * values.size + values.size + 64 * 9 + 1
    assert encoded_bytes(values, sparsity) < by_row


def test_rows_without_weights_are_left_out_when_there_are_many():
    dense = np.zeros((5000, 200), np.float32)
    dense[[3, 4999], [5, 9]] = 1
    values, sparsity = encode(dense)
    assert encoded_bytes(values, sparsity) < 64
    np.testing.assert_array_equal(decode(values, sparsity, dense.shape), dense)


def test_decodes_blocks():
    # The 2x2 blocks of [[1 0 2 3] [0 4 0 0] [0 0 5 0] [0 0 0 6]] that are not zero, block by block.
    sparsity = schema.SparsityParametersT(
        traversalOrder=np.array([0, 1, 2, 3]),
        blockMap=np.array([0, 1]),
        dimMetadata=[dense_level(2), sparse_level([0, 2, 3], [0, 1, 1]), dense_level(2), dense_level(2)],
    )
    values = np.array([1, 0, 0, 4, 2, 3, 0, 0, 5, 0, 0, 6], np.float32)
    assert decode(values, sparsity, (4, 4)).tolist() == [
        [1, 0, 2, 3],
        [0, 4, 0, 0],
        [0, 0, 5, 0],
        [0, 0, 0, 6],
    ]


@pytest.mark.parametrize(
    "levels",
    [
        [dense_level(2), sparse_level([0, 1, 2], [0, 9])],
        [dense_level(2), sparse_level([0, 1, 5], [0, 1])],
        [dense_level(2), sparse_level([0, 2, 1], [0, 1])],
        [dense_level(2), sparse_level([0, 1], [0])],
        [dense_level(2**31 - 1), sparse_level([0, 1, 2], [0, 1])],
        [dense_level(2)],
    ],
)
def test_contradictory_coordinates_are_an_error(levels):
    sparsity = schema.SparsityParametersT(traversalOrder=np.array([0, 1]), dimMetadata=levels)
    with pytest.raises(HarpError, match="damaged"):
        decode(np.ones(2, np.float32), sparsity, (2, 3))
