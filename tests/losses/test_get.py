"""Losses by name."""

import pytest

from harp_tf import losses
from harp_tf.types import HarpError


@pytest.mark.parametrize(
    "name, expected",
    [
        ("natural", losses.Natural()),
        ("pgd", losses.PGDAdversarialTraining()),
        ("trades", losses.Trades(beta=4.0)),
        ("mart", losses.Mart(beta=4.0)),
        ("free", losses.FreeAdversarialTraining(batch_size=32, replays=3)),
    ],
)
def test_every_name_gives_its_loss_with_its_settings(name, expected):
    found = losses.get(name, beta=4.0, batch_size=32, replays=3)
    assert type(found) is type(expected) and found == expected


def test_every_name_is_known():
    for name in losses.NAMES:
        assert isinstance(losses.get(name, batch_size=8), losses.RobustLoss)


def test_a_loss_object_stays_as_it_is():
    loss = losses.Trades(beta=2.0)
    assert losses.get(loss) is loss


@pytest.mark.parametrize("loss", ["crossentropy", None, losses.Trades])
def test_anything_else_is_refused(loss):
    with pytest.raises(HarpError, match="loss must be one of natural, pgd, trades, mart, free"):
        losses.get(loss)


def test_free_asks_for_its_batch_size():
    with pytest.raises(HarpError, match=r"FreeAdversarialTraining\(batch_size=\.\.\.\)"):
        losses.get("free")
