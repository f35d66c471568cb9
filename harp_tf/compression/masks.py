"""Exact top-k masks by absolute score, with HARP's gradients.

A mask keeps exactly ``k`` entries of a score tensor. The ``k``-th largest absolute score is found by radix
selection on its bit pattern: the order of non-negative float32 numbers is the order of their bits, so two
histograms (the upper 16 bits, then the lower 15 bits of the one bucket that holds the threshold) locate it
without sorting. Ties at the threshold are broken by index, so the count is exact for every input.
"""

from collections.abc import Callable

import tensorflow as tf

from harp_tf.compression.rates import keep_count

_ROW = 256
_LOW_BITS = 15
_HIGH_BUCKETS = 1 << 16
_LOW_BUCKETS = 1 << _LOW_BITS


def top_k_mask(scores: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Marks the `count` entries of largest absolute value.

    Args:
        scores: float32 tensor of any static shape.
        count: int32 scalar, 1 <= count <= number of entries.

    Returns:
        Tensor of the shape and dtype of `scores`, 1 on exactly `count` entries and 0 elsewhere. Among equal
        absolute scores the lower flat index is kept.
    """
    count = tf.cast(count, tf.int32)
    with tf.name_scope("harp_select"):
        # |score| by clearing the sign bit: arithmetic might flush denormal numbers to 0.
        bits = tf.bitcast(tf.cast(tf.reshape(scores, [-1]), tf.float32), tf.int32)
        bits = tf.bitwise.bitwise_and(bits, 0x7FFFFFFF)
        keep = _largest(bits, count)
        return tf.reshape(tf.cast(keep, scores.dtype), scores.shape)


# Traced once for all layers: a hundred operations per selection would make the tracing of a deep network slow.
@tf.function(input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32)], autograph=False)
def _largest(keys: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Marks the `count` largest of non-negative int32 keys, the first ones among equals."""
    threshold, above = _kth_largest(keys, count)
    larger = keys > threshold
    tied = tf.equal(keys, threshold)
    wanted = count - above

    def lowest_indices() -> tf.Tensor:
        # The same selection, by index: a running count would be quadratic under XLA.
        size = tf.size(keys)
        priority = tf.where(tied, size - tf.range(size), 0)
        return larger | (priority >= _kth_largest(priority, wanted)[0])

    all_fit = tf.equal(tf.reduce_sum(tf.cast(tied, tf.int32)), wanted)
    return tf.cond(all_fit, lambda: larger | tied, lowest_indices)


def _kth_largest(keys: tf.Tensor, rank: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the `rank`-th largest of non-negative int32 keys and how many keys are larger than it."""
    high = tf.bitwise.right_shift(keys, _LOW_BITS)
    bucket, above = _bucket_of(high, _HIGH_BUCKETS, rank)
    low = tf.bitwise.bitwise_and(keys, _LOW_BUCKETS - 1)
    # Keys of other buckets are counted below all others, where they cannot matter.
    inside = tf.where(tf.equal(high, bucket), low + _ROW, 0)
    low_bucket, above_inside = _bucket_of(inside, _LOW_BUCKETS + _ROW, rank - above)
    return tf.bitwise.left_shift(bucket, _LOW_BITS) + low_bucket - _ROW, above + above_inside


def _bucket_of(values: tf.Tensor, size: int, rank: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the bucket that holds the `rank`-th largest value and the number of values in higher buckets."""
    # The raw op with a Python size compiles under XLA; tf.math.bincount does not.
    histogram = tf.raw_ops.DenseBincount(
        input=values, size=size, weights=tf.constant([], tf.int32), binary_output=False
    )
    # Rows first, then inside one row: XLA would make a running sum over all buckets quadratic. Indexing is by
    # gather, since XLA tries to evaluate the bounds of a slice while it compiles, which takes minutes.
    rows = tf.reshape(histogram, [size // _ROW, _ROW])
    row, above_row = _last_at_least(tf.reduce_sum(rows, axis=1), rank)
    column, above_column = _last_at_least(tf.gather(rows, row), rank - above_row)
    return row * _ROW + column, above_row + above_column


def _last_at_least(counts: tf.Tensor, rank: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the last position from which on `counts` sum to at least `rank`, and the sum after it."""
    from_here = tf.cumsum(counts, reverse=True)
    position = tf.reduce_sum(tf.cast(from_here >= rank, tf.int32)) - 1
    return position, tf.gather(from_here, position) - tf.gather(counts, position)


def straight_through_mask(
    scores: tf.Tensor,
    rate: tf.Tensor,
    count: Callable[[tf.Tensor, int], tf.Tensor] = keep_count,
    rate_gradient: str = "sum",
) -> tf.Tensor:
    """The mask M of a layer from its importance scores and its rate.

    Args:
        scores: float32 tensor S of any static shape.
        rate: float32 scalar a, the fraction of entries that is kept, in (0, 1].
        count: the rounding rule (a, n) -> number of ones: `keep_count` for weights, `keep_channels` for channels.
        rate_gradient: "sum" is the paper's; "marginal" asks what one more entry is worth, see below.

    Returns:
        Tensor of zeros and ones of the shape of `scores`, with exactly `count(rate, n)` ones. With g = dL/dM its
        gradients are dL/dS = g * sign(S) (straight-through to |S|) and dL/da = sum of g; for "marginal" the latter is
        n * (mean of g over the entries of rank k/2 to 2k), with k the number that is kept. Much of the sum is of the
        largest entries, which say what would be lost without them, not what there is to gain from another one, so it
        holds on to layers in which few weights do much.

    Reference:
        Zhao & Wressnegger, Holistic Adversarially Robust Pruning, ICLR 2023, section 3.2; "marginal" is our own.
    """

    @tf.custom_gradient
    def masked(scores: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        kept = count(rate, scores.shape.num_elements())

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            total = tf.reduce_sum(upstream) if rate_gradient == "sum" else _marginal(scores, kept, upstream)
            return upstream * tf.sign(scores), tf.cast(total, rate.dtype)

        return top_k_mask(scores, kept), gradient

    return masked(scores, rate)


def _marginal(scores: tf.Tensor, kept: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """n times the mean of `upstream` over the entries next to the threshold, of half to twice its rank."""
    size = scores.shape.num_elements()
    kept = tf.cast(kept, tf.int32)
    near = top_k_mask(scores, tf.minimum(2 * kept, size)) - top_k_mask(scores, tf.maximum(kept // 2, 1))
    return size * tf.math.divide_no_nan(tf.reduce_sum(near * upstream), tf.reduce_sum(near))
