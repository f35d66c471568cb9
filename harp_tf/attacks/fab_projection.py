"""The nearest point of a hyperplane inside the box [0, 1], without a sort."""

import tensorflow as tf

# Every Newton step on a concave function leaves at most a quarter of what is left to cover times the slope, so 64
# steps are beyond what float32 can tell apart; in practice there are about five.
_MAX_STEPS = 64


def onto_hyperplane(points: tf.Tensor, normals: tf.Tensor, gaps: tf.Tensor, norm: str) -> tf.Tensor:
    """The shortest moves that take points onto hyperplanes without leaving the box.

    Every coordinate moves in its useful direction by min(reach, room), where room is its distance to the side of the
    box and reach is lambda (L-inf) or lambda * |normal| (L2), with one lambda per point. What the moves cover together
    is increasing, concave and piecewise linear in lambda, so Newton's method climbs to the exact solution from the
    left and arrives after a handful of steps, each of them linear in the number of coordinates.

    Args:
        points: float32 [n, d] in [0, 1].
        normals: float32 [n, d], of any scale; coordinates of normal 0 do not move.
        gaps: float32 [n], normal . target - normal . point: what the move has to cover.
        norm: "linf" or "l2", in which the move is shortest.

    Returns:
        float32 [n, d], moves such that points + moves lie on the hyperplanes, or, where those miss the box, in the
        corner of the box that is nearest to them.
    """
    largest = tf.reduce_max(tf.abs(normals), axis=1, keepdims=True)  # scaled, so that no square vanishes
    normals = tf.math.divide_no_nan(normals, largest) * tf.sign(gaps)[:, None]
    goals = tf.math.divide_no_nan(tf.abs(gaps), largest[:, 0])
    sizes = tf.abs(normals)
    rooms = tf.where(normals > 0, 1.0 - points, points)
    slopes = sizes if norm == "linf" else tf.square(sizes)  # what a coordinate covers per unit of lambda while it moves
    limits = sizes * rooms  # and what it covers at most

    def step(lambdas: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        covered = lambdas[:, None] * slopes
        slope = tf.reduce_sum(tf.where(covered < limits, slopes, 0.0), axis=1)
        missing = goals - tf.reduce_sum(tf.minimum(covered, limits), axis=1)
        # Where the hyperplane misses the box, no coordinate is left to move in the end: the slope is 0.
        further = lambdas + tf.maximum(tf.math.divide_no_nan(missing, slope), 0.0)
        return further, tf.reduce_any(further > lambdas * (1 + 1e-6))

    lambdas, _ = tf.while_loop(
        lambda _, moved: moved, step, (tf.zeros_like(goals), tf.constant(True)), maximum_iterations=_MAX_STEPS
    )
    reaches = lambdas[:, None] if norm == "linf" else lambdas[:, None] * sizes
    return tf.sign(normals) * tf.minimum(reaches, rooms)
