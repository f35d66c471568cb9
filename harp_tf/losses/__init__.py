"""Training losses: natural, pgd, trades, mart and free."""

from harp_tf.losses.base import Logits, LossTerms, RobustLoss
from harp_tf.losses.free_at import FreeAdversarialTraining
from harp_tf.losses.mart import Mart
from harp_tf.losses.natural import Natural
from harp_tf.losses.pgd_at import PGDAdversarialTraining
from harp_tf.losses.terms import cross_entropy
from harp_tf.losses.trades import Trades
from harp_tf.types import HarpError

NAMES = ("natural", "pgd", "trades", "mart", "free")
"""Names of the losses, as `get` and the command line know them."""


def get(loss: str | RobustLoss, *, beta: float = 6.0, batch_size: int | None = None, replays: int = 4) -> RobustLoss:
    """Resolves a loss by name.

    Args:
        loss: "natural", "pgd", "trades", "mart", "free", or a loss object, which is returned as it is.
        beta: weight of the KL term of trades and mart.
        batch_size: size of the training batches, needed by free.
        replays: how often free uses each minibatch.

    Returns:
        The loss object.

    Raises:
        HarpError: if the name is unknown, or free is asked for without a batch size.
    """
    if isinstance(loss, RobustLoss):
        return loss
    if loss == "natural":
        return Natural()
    if loss == "pgd":
        return PGDAdversarialTraining()
    if loss == "trades":
        return Trades(beta=beta)
    if loss == "mart":
        return Mart(beta=beta)
    if loss == "free":
        if batch_size is None:
            raise HarpError(
                "The loss 'free' keeps a perturbation per batch: pass FreeAdversarialTraining(batch_size=...)."
            )
        return FreeAdversarialTraining(batch_size=batch_size, replays=replays)
    raise HarpError(f"loss must be one of {', '.join(NAMES)} or a harp_tf.losses.RobustLoss, received {loss!r}.")


__all__ = [
    "NAMES",
    "FreeAdversarialTraining",
    "Logits",
    "LossTerms",
    "Mart",
    "Natural",
    "PGDAdversarialTraining",
    "RobustLoss",
    "Trades",
    "cross_entropy",
    "get",
]
