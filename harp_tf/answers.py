"""Which examples a model was right on, as text in results.json and comparison.json."""

import numpy as np


def packed(right: np.ndarray) -> str:
    """Right and wrong answers as text: one bit per example, the first the highest of its byte, in hexadecimal digits.

    Args:
        right: bool [n].
    """
    return np.packbits(right).tobytes().hex()


def unpacked(text: str, count: int) -> np.ndarray:
    """What `packed` has packed.

    Args:
        text: hexadecimal digits.
        count: number of answers.

    Returns:
        bool [count].

    Raises:
        ValueError: if the text is no such one of so many answers.
    """
    octets = np.frombuffer(bytes.fromhex(text), np.uint8)
    if len(octets) != -(-count // 8):
        raise ValueError(f"expected the answers to {count} examples, received {8 * len(octets)} bits")
    return np.unpackbits(octets, count=count).astype(bool)
