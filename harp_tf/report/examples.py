"""Pictures of adversarial examples, for people to judge what an attack may change."""

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from harp_tf.report import theme

_SHOWN = 8


def write_examples(
    path: str | Path,
    images: np.ndarray,
    adversarial: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    class_names: tuple[str, ...],
    title: str,
) -> Path:
    """Draws images, what an attack added to them, and the sums, one example per column.

    Args:
        path: the .png file to write, in an existing folder.
        images: float [n >= 1, height, width, channels] in [0, 1]; the first 8 are drawn, in colour if they have 3
            channels, else the mean over these in grey.
        adversarial: of the same shape.
        labels: int [n], the true classes.
        predicted: int [n], what the model says of the adversarial images.
        class_names: a name for every class.
        title: what attack on what model.

    Returns:
        The path.
    """
    count = min(len(images), _SHOWN)
    change = adversarial[:count] - images[:count]
    # The same scale for all: grey is no change.
    scale = max(float(np.abs(change).max()), 1e-12)
    rows = {"image": images[:count], "change": 0.5 + change / (2 * scale), "adversarial": adversarial[:count]}
    if images.shape[-1] != 3:
        rows = {name: pictures.mean(axis=-1) for name, pictures in rows.items()}
    with rc_context(theme.STYLE):
        figure = Figure(figsize=(1.15 * max(count, 4), 4.4), layout="constrained", facecolor=theme.GROUND)
        panels = figure.subplots(len(rows), count, squeeze=False)
        for (name, pictures), line in zip(rows.items(), panels):
            for column, (picture, axes) in enumerate(zip(pictures, line)):
                axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                axes.spines[:].set_visible(False)
                if column == 0:
                    axes.set_ylabel(name)
        for column in range(count):
            panels[0, column].set_title(_short(class_names[labels[column]]), fontsize=8.5)
            fooled = predicted[column] != labels[column]
            panels[-1, column].set_xlabel(
                _short(class_names[predicted[column]]),
                fontsize=8.5,
                color=theme.LIGHT["orange" if fooled else "blue"],
            )
        figure.suptitle(f"{title}; changes of up to {scale:.3g}, drawn from black to white", fontsize=9.5)
        figure.savefig(path, dpi=160)
    return Path(path)


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"
