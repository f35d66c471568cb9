"""A part of the input axis of a kernel, in terms of channel spaces."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the input axis of a kernel: whole spaces side by side, the row of them several times.

    Attributes:
        spaces: (name, channels) of each space; the name None stands for channels that are never removed.
        repeat: how often the row occurs: once per pixel where an image was flattened.
    """

    spaces: tuple[tuple[str | None, int], ...]
    repeat: int = 1

    @property
    def channels(self) -> int:
        """Length of the part along the axis."""
        return self.repeat * sum(channels for _, channels in self.spaces)

    def as_list(self) -> list:
        """The part as JSON: [repeat, [name, channels], ...]; `Part.of` is the inverse."""
        return [self.repeat, *([name, channels] for name, channels in self.spaces)]

    @classmethod
    def of(cls, values: list) -> "Part":
        """The part that `as_list` gave."""
        return cls(tuple((name, channels) for name, channels in values[1:]), values[0])
