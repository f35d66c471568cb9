"""Gradients of networks that compute in float16."""

import tensorflow as tf

from harp_tf.attacks.base import Logits


def half_precision_safe(logits: Logits) -> Logits:
    """Keeps the images' gradients of a network that computes in float16 from vanishing.

    An example that is classified with confidence has gradients far below the smallest float16, 6e-8: as zeros they
    leave an attack where it started, and the network looks robust. Here each example's gradient passes the network
    scaled to the size of 1, and is scaled back in float32. bfloat16 reaches as far down as float32 and needs none.

    Args:
        logits: a function of images in inference mode, in which no example looks at another.

    Returns:
        The same function with float32 results. Gradients flow to its images only, not to variables.
    """

    @tf.custom_gradient
    def safe(images: tf.Tensor):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            outputs = tf.cast(logits(images), tf.float32)

        def gradient(upstream: tf.Tensor, variables=()):
            largest = tf.reduce_max(tf.abs(upstream), axis=-1)
            scaled = tf.math.divide_no_nan(upstream, largest[:, tf.newaxis])
            found = tape.gradient(outputs, images, output_gradients=scaled)
            if found is not None:
                found *= tf.reshape(largest, [-1] + [1] * (len(images.shape) - 1))
            return (found, [None] * len(variables)) if variables else found

        return outputs, gradient

    return safe
