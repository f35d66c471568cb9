"""Names for the layers of a model that is written anew from the calls of a graph, nested models opened."""

from harp_tf.layers.graph import Call


class CallNames:
    """Hands out names, none of them twice."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._shared: dict[int, str] = {}

    def of(self, call: Call, shared: bool) -> str:
        """A name of its own for every call; a shared layer, which stays one layer, has one name."""
        if shared and id(call.operation) in self._shared:
            return self._shared[id(call.operation)]
        name = self.unique(call.path.replace("/", "_"))  # Keras forbids "/" in names
        self._shared[id(call.operation)] = name
        return name

    def unique(self, base: str) -> str:
        """This name, with a number if it is taken."""
        name, number = base, 0
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name
