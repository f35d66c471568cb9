"""Frozen dataclasses that Keras can save inside a model."""

import dataclasses
from typing import Any, Self

import keras


class Configured:
    """Gives a frozen dataclass `get_config` and `from_config`, and makes its class known to Keras' saving.

    A class is registered under its name and the name of the package that it comes from, so that one of a user's own
    may bear the name of one of ours. A saved model loads where the class has been imported.
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        keras.saving.register_keras_serializable(cls.__module__.partition(".")[0])(cls)

    def get_config(self) -> dict[str, Any]:
        """What the constructor takes, in the form that Keras writes to JSON."""
        names = [field.name for field in dataclasses.fields(self) if field.init]  # type: ignore[arg-type]
        return {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The inverse of `get_config`."""
        return cls(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})
