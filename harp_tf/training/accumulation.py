"""One update from a batch that is computed in parts: its gradients are the means of those of the parts."""

from collections.abc import Sequence

import tensorflow as tf

from harp_tf.losses import LossTerms
from harp_tf.types import HarpError

Gradients = list[tf.Tensor | None]


def split(tensor: tf.Tensor, parts: int) -> list[tf.Tensor]:
    """Cuts a batch into parts of one size.

    Args:
        tensor: [n, ...].
        parts: how many, >= 1.

    Raises:
        HarpError: if n is known and no multiple of `parts`. An open n is checked when the graph runs.
    """
    if parts == 1:
        return [tensor]
    count = tensor.shape[0]
    message = f"accumulate={parts} needs batches that divide into {parts} parts of one size"
    if count is not None and count % parts:
        raise HarpError(
            f"{message}, received one of {count}. Change the batch size, and leave out a smaller last batch."
        )
    with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(tensor)[0] % parts, 0, message)]):
        return tf.split(tensor, parts)


def add(gradients: Gradients, others: Gradients) -> Gradients:
    """Adds gradients variable by variable; None stands for a variable that has none."""
    return [
        b if a is None else a if b is None else tf.convert_to_tensor(a) + tf.convert_to_tensor(b)
        for a, b in zip(gradients, others, strict=True)
    ]


def joined(terms: Sequence[LossTerms]) -> LossTerms:
    """The terms of a batch from those of its parts, in their order."""
    if len(terms) == 1:
        return terms[0]

    def whole(name: str) -> tf.Tensor | None:
        found = [getattr(one, name) for one in terms]
        return None if found[0] is None else tf.concat(found, axis=0)

    return LossTerms(whole("robust"), whole("natural_logits"), whole("adversarial_logits"))
