import numpy as np
import pytest
from matplotlib.image import imread

from harp_tf.report import write_examples

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (5, 3), (20, 1), (2, 2), (2, 4), (2, 5)])
def test_a_grid_is_drawn_of_as_many_as_there_are(tmp_path, count, channels):
    images = RNG.random((count, 8, 8, channels)).astype(np.float32)
    adversarial = np.clip(images + 0.1 * np.sign(RNG.normal(size=images.shape)), 0, 1)
    labels, predicted = np.zeros(count, int), np.arange(count) % 2
    paths = [
        write_examples(
            tmp_path / name, images, adversarial, labels, predicted, ("cat", "a $long$ name of a dog"), "pgd"
        )
        for name in ("a.png", "b.png")
    ]
    pixels = imread(paths[0])
    assert pixels.ndim == 3 and pixels.shape[1] == round(1.15 * max(min(count, 8), 4) * 160)
    assert pixels[..., :3].std() > 0.05
    assert paths[0].read_bytes() == paths[1].read_bytes()  # the same run gives the same file


def test_images_that_did_not_change(tmp_path):
    images = np.full((2, 4, 4, 1), 0.5, np.float32)
    assert write_examples(
        tmp_path / "a.png", images, images, np.array([0, 1]), np.array([0, 1]), ("a", "b"), "x"
    ).exists()
