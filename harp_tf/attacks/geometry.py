"""Balls of a norm: their projection, their random points and their steepest steps."""

import abc
import dataclasses

import tensorflow as tf

from harp_tf.attacks import draws
from harp_tf.types import require_choice


class Norm(abc.ABC):
    """A norm over whole images; batches are float32 tensors whose first axis counts the examples."""

    @abc.abstractmethod
    def project(self, delta: tf.Tensor, eps: float) -> tf.Tensor:
        """The nearest perturbation inside the ball of radius eps."""

    @abc.abstractmethod
    def random(self, like: tf.Tensor, eps: float, seed: tf.Tensor) -> tf.Tensor:
        """Perturbations drawn uniformly from the ball; `seed` is int32 [2], or [n, 2] with one per example."""

    @abc.abstractmethod
    def on_sphere(self, like: tf.Tensor, eps: float, seed: tf.Tensor) -> tf.Tensor:
        """Random perturbations of norm eps, in which no pixel is preferred; `seed` as in `random`."""

    @abc.abstractmethod
    def size(self, delta: tf.Tensor) -> tf.Tensor:
        """The norm of each perturbation, float32 [n]."""

    @abc.abstractmethod
    def step(self, gradient: tf.Tensor) -> tf.Tensor:
        """The direction of norm 1 in which a function with this gradient rises most; 0 where the gradient is 0."""


@dataclasses.dataclass(frozen=True)
class Linf(Norm):
    """The largest change of any pixel."""

    def project(self, delta: tf.Tensor, eps: float) -> tf.Tensor:
        return tf.clip_by_value(delta, -eps, eps)

    def random(self, like: tf.Tensor, eps: float, seed: tf.Tensor) -> tf.Tensor:
        return eps * draws.uniform(tf.shape(like), seed, -1.0, 1.0)

    def on_sphere(self, like: tf.Tensor, eps: float, seed: tf.Tensor) -> tf.Tensor:
        noise = draws.uniform(tf.shape(like), seed, -1.0, 1.0)
        return eps * tf.math.divide_no_nan(noise, _largest(noise))

    def size(self, delta: tf.Tensor) -> tf.Tensor:
        return tf.reshape(_largest(delta), [-1])

    def step(self, gradient: tf.Tensor) -> tf.Tensor:
        return tf.sign(gradient)


@dataclasses.dataclass(frozen=True)
class L2(Norm):
    """The Euclidean length of the change of an image."""

    def project(self, delta: tf.Tensor, eps: float) -> tf.Tensor:
        return delta * tf.minimum(1.0, eps / tf.maximum(_length(delta), 1e-12))

    def random(self, like: tf.Tensor, eps: float, seed: tf.Tensor) -> tf.Tensor:
        # A Gaussian direction with a radius of uniform^(1/d) is uniform in the ball.
        direction = self.step(draws.normal(tf.shape(like), seed))
        ones = [1] * (len(like.shape) - 1)
        uniform = draws.uniform(tf.concat([tf.shape(like)[:1], ones], 0), draws.fold(seed, 0))
        dimensions = tf.cast(tf.size(like) // tf.maximum(tf.shape(like)[0], 1), tf.float32)
        return eps * tf.pow(uniform, 1.0 / dimensions) * direction

    def on_sphere(self, like: tf.Tensor, eps: float, seed: tf.Tensor) -> tf.Tensor:
        return eps * self.step(draws.normal(tf.shape(like), seed))

    def size(self, delta: tf.Tensor) -> tf.Tensor:
        return tf.reshape(_length(delta), [-1])

    def step(self, gradient: tf.Tensor) -> tf.Tensor:
        # By the largest entry first: a confident network's gradient is so small that its squares would vanish.
        scaled = tf.math.divide_no_nan(gradient, _largest(gradient))
        return tf.math.divide_no_nan(scaled, _length(scaled))


def select(where: tf.Tensor, one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Whole images of `one` where the mask [n] says so, and of `other` elsewhere."""
    # This op copies rows; `tf.where` would spread the mask over the pixels, four times as slowly.
    return tf.raw_ops.Select(condition=where, x=one, y=other)


def _largest(batch: tf.Tensor) -> tf.Tensor:
    return tf.reduce_max(tf.abs(batch), axis=list(range(1, len(batch.shape))), keepdims=True)


def _length(batch: tf.Tensor) -> tf.Tensor:
    axes = list(range(1, len(batch.shape)))
    return tf.sqrt(tf.reduce_sum(tf.square(batch), axis=axes, keepdims=True))


NORMS: dict[str, Norm] = {"linf": Linf(), "l2": L2()}


def norm_of(name: str) -> Norm:
    """The norm called "linf" or "l2"; a HarpError for any other name."""
    require_choice("norm", name, tuple(NORMS))
    return NORMS[name]
