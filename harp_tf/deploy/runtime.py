"""Runs a .tflite classifier, as a phone would."""

import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from harp_tf.deploy.flatbuffer import Source, read_bytes
from harp_tf.deploy.quiet import captured_output
from harp_tf.types import HarpError

_BATCH = 64


def tensor_shapes(source: Source) -> list[tuple[int, ...]]:
    """The shapes that the tensors of a file have for a single image, which its own lists do not tell of all of them.

    Args:
        source: Path or bytes of a .tflite file.

    Returns:
        One shape per tensor of the main graph; an empty list if the interpreter cannot tell without an image, whose
        size is open.
    """
    with captured_output():
        try:
            interpreter = Interpreter(
                model_content=read_bytes(source),
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError):
            return []
        details = interpreter.get_tensor_details()
    shapes = {tensor["index"]: tuple(int(size) for size in tensor["shape"]) for tensor in details}
    return [shapes.get(index, ()) for index in range(max(shapes) + 1)]


class TFLiteClassifier:
    """A .tflite file as a function from images to logits.

    Example:
    ```python
    logits = TFLiteClassifier("model.tflite").logits(images)
    ```
    """

    def __init__(self, source: Source, num_threads: int = 1, xnnpack: bool = True):
        """Loads a file.

        Args:
            source: Path or bytes of a .tflite file with one float32 input and one float32 output.
            num_threads: Threads the interpreter may use.
            xnnpack: Whether XNNPACK runs what it can; otherwise TFLite's plain builtin kernels do.

        Raises:
            HarpError: If the file cannot be read, is damaged, or the interpreter refuses it.
        """
        self._kernels = "XNNPACK" if xnnpack else "TFLite's builtin kernels"
        resolver = OpResolverType.BUILTIN if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        data = read_bytes(source)
        with captured_output():
            try:
                self._interpreter = Interpreter(
                    model_content=data, num_threads=num_threads, experimental_op_resolver_type=resolver
                )
                inputs = self._interpreter.get_input_details()
                outputs = self._interpreter.get_output_details()
                if all(size > 0 for tensor in inputs for size in tensor["shape_signature"][1:]):
                    self._interpreter.allocate_tensors()  # Otherwise the images decide on the sizes.
            except (ValueError, RuntimeError) as error:
                raise HarpError(f"The TFLite file does not load under {self._kernels}: {error}") from error
        if [d["dtype"] for d in inputs] != [np.float32] or [d["dtype"] for d in outputs] != [np.float32]:
            raise HarpError(
                "Expected a TFLite file with one float32 input and one float32 output, received "
                f"{[(d['name'], d['dtype'].__name__) for d in (*inputs, *outputs)]}."
            )
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        self._image_shape = tuple(int(size) for size in inputs[0]["shape_signature"][1:])
        self._batch = int(inputs[0]["shape"][0])

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Computes the logits of a batch of any size.

        Args:
            images: float32 `[n, ...]`, n >= 1, in the range the model was trained on, [0, 1].

        Returns:
            float32 `[n, classes]`.

        Raises:
            HarpError: If the images do not have the shape of the model's input, or running fails.
        """
        images = np.ascontiguousarray(images, np.float32)
        fits = images.ndim == 1 + len(self._image_shape) and all(
            wanted in (-1, size) for wanted, size in zip(self._image_shape, images.shape[1:], strict=True)
        )
        if not fits or len(images) == 0:
            raise HarpError(
                f"Expected images of shape [n >= 1, {', '.join(map(str, self._image_shape))}], "
                f"received {list(images.shape)}."
            )
        return np.concatenate([self._run(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)])

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image; an open size is -1."""
        return self._image_shape

    def seconds(self, image: np.ndarray, runs: int) -> list[float]:
        """Times the interpreter alone on one image.

        Args:
            image: float32 `[1, ...]`.
            runs: how often.

        Returns:
            The seconds of each run.
        """
        self.logits(image)  # sets the input and, where it was open, the sizes
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            self._interpreter.invoke()
            times.append(time.perf_counter() - start)
        return times

    def _run(self, images: np.ndarray) -> np.ndarray:
        try:
            if images.shape[0] != self._batch or -1 in self._image_shape:
                self._interpreter.resize_tensor_input(self._input, images.shape)
                with captured_output():
                    self._interpreter.allocate_tensors()
                self._batch = images.shape[0]
            self._interpreter.set_tensor(self._input, images)
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise HarpError(
                f"The TFLite file fails on a batch of {len(images)} under {self._kernels}: {error}"
            ) from error
        return self._interpreter.get_tensor(self._output)
