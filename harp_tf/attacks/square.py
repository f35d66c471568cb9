"""Square: random search that needs the logits and no gradient."""

import dataclasses

import tensorflow as tf

from harp_tf.attacks.base import Attack, Logits
from harp_tf.attacks.geometry import select
from harp_tf.attacks.objectives import margin, misclassified
from harp_tf.attacks.square_moves import L2Moves, LinfMoves
from harp_tf.types import HarpError, is_count

MOVES = {"linf": LinfMoves, "l2": L2Moves}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """The Square attack, a random search over windows, as in the standard AutoAttack.

    Each query changes one window of the image, to -eps or eps in each channel (L-inf) or to a pattern that takes over
    the budget of a second window (L2), and is accepted when the margin rises. Windows and signs are the same for all
    examples; they depend on the first number of the seed alone, so that neither the other examples of a batch nor their
    order matters. The start, vertical stripes (L-inf) or tiles (L2), is each example's own.

    The last axis of images is their channels. Of flat vectors a window is an interval, and at the start every entry has
    its own sign. No gradient is needed: to attack a black box, wrap a function of NumPy images in `tf.numpy_function`
    and give its result the static shape [None, classes].

    Unlike the official code, windows may touch the last row and column, as in the paper; L2 windows have the same signs
    for all examples; and a query that would change nothing, because its window holds these values already, is not made.

    Attributes:
        queries: number of windows that are tried, >= 1.
        p_init: share of the image that the first windows cover, in (0, 1]; halved after 10, 50, 200, 500, 1000, 2000,
            4000, 6000 and 8000 queries.

    Reference:
        Andriushchenko et al., Square Attack: a Query-efficient Black-box Adversarial Attack via Random Search,
        ECCV 2020.
    """

    queries: int = 5000
    p_init: float = 0.8

    def __post_init__(self):
        super().__post_init__()
        if not is_count(self.queries) or not 0.0 < self.p_init <= 1.0:
            raise HarpError(
                "Square needs a whole number of queries >= 1 and a share p_init in (0, 1], received "
                f"queries={self.queries!r} and p_init={self.p_init!r}."
            )

    def perturb(
        self, logits: Logits, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, number: int | tf.Tensor
    ) -> tf.Tensor:
        shape = images.shape[1:].as_list()
        if len(shape) == 1:
            images = images[..., None]  # a vector is an axis with one channel
        moves = MOVES[self.norm](images.shape[1:].as_list(), self.eps, self.queries, self.p_init, seed)

        def measure(points: tf.Tensor, classes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            scores = logits(tf.reshape(points, [-1, *shape]))
            return margin(scores, classes), misclassified(scores, classes)

        def query(count: tf.Tensor, points: tf.Tensor, values: tf.Tensor, fooled: tf.Tensor) -> tuple[tf.Tensor, ...]:
            rows = tf.where(~fooled & moves.changes(count, points, images))[:, 0]

            def ask() -> tuple[tf.Tensor, ...]:
                candidates = moves.move(count, tf.gather(points, rows), tf.gather(images, rows))
                candidate_values, wrong = measure(candidates, tf.gather(labels, rows))
                kept = tf.where(wrong | (candidate_values > tf.gather(values, rows)))[:, 0]
                places = tf.gather(rows, kept)[:, None]
                return tuple(
                    tf.tensor_scatter_nd_update(old, places, tf.gather(new, kept))
                    for old, new in ((points, candidates), (values, candidate_values), (fooled, wrong))
                )

            return count + 1, *tf.cond(tf.size(rows) > 0, ask, lambda: (points, values, fooled))

        _, wrong = measure(images, labels)
        start = select(wrong, images, moves.start(images))  # what is misclassified must not be made right
        state = (tf.constant(0), start, *measure(start, labels))
        _, best, *_ = tf.while_loop(
            lambda *state: ~tf.reduce_all(state[-1]), query, state, maximum_iterations=self.queries
        )
        return tf.reshape(best, [-1, *shape])
