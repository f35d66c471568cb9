"""Dense array <-> TFLite's sparse tensor format, the coordinates kept level by level.

A tensor is walked along its axes in a `traversal order`. Each axis is one level of a tree: DENSE
levels enumerate every index, SPARSE_CSR levels list the indices that occur (`array_indices`) and where
the list of each parent begins (`array_segments`).

Reference:
    "The Tensor Algebra Compiler" (Kjolstad et al., OOPSLA 2017), whose storage format TFLite's
    `SparsityParameters` follow.
"""

import itertools
import math

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from harp_tf.types import HarpError

_DENSE, _SPARSE = schema.DimensionType.DENSE, schema.DimensionType.SPARSE_CSR

_INDEX_VECTORS = {
    np.dtype(np.uint8): (schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT),
    np.dtype(np.uint16): (schema.SparseIndexVector.Uint16Vector, schema.Uint16VectorT),
    np.dtype(np.int32): (schema.SparseIndexVector.Int32Vector, schema.Int32VectorT),
}


def encode(dense: np.ndarray) -> tuple[np.ndarray, schema.SparsityParametersT]:
    """Encodes an array in the smallest sparse form found.

    Tried are: every axis as the innermost one, the others in their own order, and every number of
    leading levels kept dense. The index types are the smallest that hold the numbers.

    Args:
        dense: Array of any shape with at least one axis and one element.

    Returns:
        The non-zero values in traversal order (one explicit zero for an array of zeros, since a TFLite
        constant may not be empty), and their coordinates.
    """
    offsets = np.flatnonzero(dense)
    if offsets.size == 0:
        offsets = np.zeros(1, np.int64)
    coordinates = np.unravel_index(offsets, dense.shape)

    trees = []
    for inner in range(dense.ndim):
        order = [axis for axis in range(dense.ndim) if axis != inner] + [inner]
        shape = [dense.shape[axis] for axis in order]
        flat = np.sort(np.ravel_multi_index([coordinates[axis] for axis in order], shape))
        levels = _tree_levels(flat, shape)
        for dense_levels in range(dense.ndim):
            size = _coordinate_bytes(levels, shape, dense_levels)
            trees.append((size, order, shape, levels, dense_levels))
    _, order, shape, levels, dense_levels = min(trees, key=lambda tree: tree[0])

    values = dense.transpose(order).reshape(-1)[levels[-1]]
    dimensions = [
        schema.DimensionMetadataT(format=_DENSE, denseSize=size)
        if level < dense_levels
        else _sparse_dimension(levels, shape, level, dense_levels)
        for level, size in enumerate(shape)
    ]
    return values, schema.SparsityParametersT(traversalOrder=np.array(order, np.int32), dimMetadata=dimensions)


def encode_rows(dense: np.ndarray, block: int = 1) -> tuple[np.ndarray, schema.SparsityParametersT]:
    """Encodes a matrix as TFLite's sparse fully-connected kernels read it: per row, what is not zero.

    Args:
        dense: Matrix `[rows, columns]`.
        block: Neighbours in a row that are kept or left out together, a divisor of `columns`.

    Returns:
        The values of all blocks that hold a non-zero (one block of zeros for a matrix of zeros), and their
        coordinates.
    """
    blocks = dense.reshape(len(dense), -1, block)
    rows, columns = np.nonzero(blocks.any(axis=2))
    if rows.size == 0:
        rows = columns = np.zeros(1, np.int64)
    segments = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(dense)))])
    dimensions = [
        schema.DimensionMetadataT(format=_DENSE, denseSize=len(dense)),
        _sparse_level(segments, rows.size, columns, blocks.shape[1] - 1),
    ]
    if block > 1:
        dimensions.append(schema.DimensionMetadataT(format=_DENSE, denseSize=block))
    sparsity = schema.SparsityParametersT(
        traversalOrder=np.arange(len(dimensions), dtype=np.int32),
        blockMap=np.array([1], np.int32) if block > 1 else None,
        dimMetadata=dimensions,
    )
    return blocks[rows, columns].reshape(-1), sparsity


def encoded_bytes(values: np.ndarray, sparsity: schema.SparsityParametersT) -> int:
    """Bytes of the values and the coordinates, without the tables around them."""
    return values.nbytes + sum(
        dimension.arraySegments.values.nbytes + dimension.arrayIndices.values.nbytes
        for dimension in sparsity.dimMetadata
        if dimension.format == _SPARSE
    )


def decode(values: np.ndarray, sparsity: schema.SparsityParametersT, shape: tuple[int, ...]) -> np.ndarray:
    """Unpacks a sparse TFLite tensor, with or without blocks.

    Args:
        values: The stored values.
        sparsity: Their coordinates.
        shape: Shape of the dense tensor.

    Returns:
        The dense array, of the values' dtype.

    Raises:
        HarpError: If the coordinates contradict each other or the shape.
    """
    rank = len(shape)
    try:
        block_map = [] if sparsity.blockMap is None else [int(axis) for axis in sparsity.blockMap]
        # coordinates[k] holds, for every node of the current level, its index along axis k; axes from
        # `rank` on are positions inside a block.
        coordinates = np.zeros((rank + len(block_map), 1), np.int64)
        block_sizes = {}
        for axis, dimension in zip(sparsity.traversalOrder, sparsity.dimMetadata, strict=True):
            nodes = coordinates.shape[1]
            if dimension.format == _DENSE:
                if dimension.denseSize > max(shape):
                    raise ValueError(f"a level of {dimension.denseSize} entries in a tensor of shape {shape}")
                counts = np.full(nodes, dimension.denseSize)
                indices = np.tile(np.arange(dimension.denseSize), nodes)
                block_sizes[int(axis)] = dimension.denseSize
            else:
                counts = np.diff(dimension.arraySegments.values.astype(np.int64))
                indices = dimension.arrayIndices.values
            if counts.size != nodes or counts.sum() != indices.size:
                raise ValueError(f"{counts.size} lists of {indices.size} indices under {nodes} entries")
            coordinates = np.repeat(coordinates, counts, axis=1)
            coordinates[axis] = indices
        for inner, axis in enumerate(block_map, start=rank):
            coordinates[axis] = coordinates[axis] * block_sizes[inner] + coordinates[inner]
        if values.size != coordinates.shape[1]:
            raise ValueError(f"{values.size} values for {coordinates.shape[1]} entries")
        dense = np.zeros(shape, values.dtype)
        dense.reshape(-1)[np.ravel_multi_index(tuple(coordinates[:rank]), shape)] = values
    except (ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise HarpError(f"Its sparse encoding is damaged ({error}). Export the file again.") from error
    return dense


def _tree_levels(flat: np.ndarray, shape: list[int]) -> list[np.ndarray]:
    """The nodes of every level, as sorted flat offsets into the axes down to that level."""
    levels = [flat]
    for size in reversed(shape[1:]):
        prefixes = levels[0] // size
        levels.insert(0, prefixes[np.flatnonzero(np.diff(prefixes, prepend=-1))])
    return levels


def _coordinate_bytes(levels: list[np.ndarray], shape: list[int], dense_levels: int) -> int:
    parents = math.prod(shape[:dense_levels])
    size = 0
    for nodes, extent in itertools.islice(zip(levels, shape, strict=True), dense_levels, None):
        size += nodes.size * _index_dtype(extent - 1).itemsize
        size += (parents + 1) * _index_dtype(nodes.size).itemsize
        parents = nodes.size
    return size


def _sparse_dimension(
    levels: list[np.ndarray], shape: list[int], level: int, dense_levels: int
) -> schema.DimensionMetadataT:
    nodes = levels[level]
    parent_of_node = nodes // shape[level]
    if level == dense_levels:
        parents = math.prod(shape[:level])
        children = np.bincount(parent_of_node, minlength=parents)
    else:
        children = np.bincount(np.searchsorted(levels[level - 1], parent_of_node))
    segments = np.concatenate([[0], np.cumsum(children)])
    return _sparse_level(segments, nodes.size, nodes % shape[level], shape[level] - 1)


def _sparse_level(
    segments: np.ndarray, last_segment: int, indices: np.ndarray, last_index: int
) -> schema.DimensionMetadataT:
    segments_type, segments_vector = _index_vector(segments, last_segment)
    indices_type, indices_vector = _index_vector(indices, last_index)
    return schema.DimensionMetadataT(
        format=_SPARSE,
        arraySegmentsType=segments_type,
        arraySegments=segments_vector,
        arrayIndicesType=indices_type,
        arrayIndices=indices_vector,
    )


def _index_dtype(largest: int) -> np.dtype:
    return np.dtype(np.uint8 if largest <= 0xFF else np.uint16 if largest <= 0xFFFF else np.int32)


def _index_vector(numbers: np.ndarray, largest: int) -> tuple:
    dtype = _index_dtype(largest)
    vector_type, vector_class = _INDEX_VECTORS[dtype]
    return vector_type, vector_class(numbers.astype(dtype))
