"""Frozen dataclasses that Keras can save inside a model."""

import dataclasses
import inspect
from typing import Any, Self

import keras

from harp_tf.types import HarpError


class Configured:
    """Gives a frozen dataclass `get_config` and `from_config`, and makes its class known to Keras' saving.

    A class is registered under its name and the name of the package that it comes from, so that one of a user's own
    may bear the name of one of ours. A saved model loads where the class has been imported.
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        keras.saving.register_keras_serializable(cls.__module__.partition(".")[0])(cls)

    def get_config(self) -> dict[str, Any]:
        """What the constructor takes, in the form that Keras writes to JSON.

        Raises:
            HarpError: if the class is no dataclass, has no get_config of its own, and its constructor takes arguments.
        """
        own: Any = next(cls for cls in type(self).__mro__ if "__init__" in vars(cls))
        unknown = "__dataclass_params__" not in vars(own) and len(inspect.signature(own.__init__).parameters) > 1
        if unknown and own is not object and type(self).get_config is Configured.get_config:
            raise HarpError(
                f"{type(self).__name__} cannot be saved: its constructor is its own, so what it got is not known. Make "
                "it a dataclass (@dataclasses.dataclass(frozen=True)) with fields, or give it a get_config()."
            )
        names = [field.name for field in dataclasses.fields(self) if field.init]  # type: ignore[arg-type]
        return {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The inverse of `get_config`."""
        return cls(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})
