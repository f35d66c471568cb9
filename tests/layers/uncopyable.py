"""Layers and models that Keras takes and that cannot be rebuilt from their configuration."""

import keras
from keras import layers


class Lazy(layers.Layer):
    """Its build() leaves its layer to the first call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, name="late")

    def build(self, input_shape):
        self.size = input_shape[-1]

    def call(self, inputs):
        return self.dense(inputs)


class Subclass(keras.Model):
    """Without get_config()."""

    def __init__(self, units):
        super().__init__(name="subclass")
        self.dense = layers.Dense(units)

    def call(self, inputs):
        return self.dense(inputs)
