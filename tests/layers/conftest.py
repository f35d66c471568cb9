"""Helpers that the tests of pruned layers and models share."""

import re

import numpy as np
import pytest
import tensorflow as tf

from tests.layers.nets import MODELS


@pytest.fixture
def count_selections():
    """A function that counts the mask selections in the traced graph of a function, loop bodies included."""

    def selections_in(graph) -> int:
        scopes = {
            match.group(1)
            for operation in graph.get_operations()
            if (match := re.match(r"(.*?harp_select(_\d+)?)/", operation.name))
        }
        bodies = [
            operation.get_attr(name).name
            for operation in graph.get_operations()
            if operation.type in ("While", "StatelessWhile", "PartitionedCall", "StatefulPartitionedCall")
            for name in ("body", "f")
            if name in operation.node_def.attr
        ]
        return len(scopes) + sum(selections_in(graph._get_function(body).graph) for body in bodies)

    def count(function, *inputs) -> int:
        return selections_in(tf.function(function).get_concrete_function(*inputs).graph)

    return count


@pytest.fixture(params=MODELS)
def model(request):
    """Each of `nets.MODELS`, with random weights of which none is small."""
    model = MODELS[request.param]()
    draws = np.random.default_rng(1)
    for variable in model.variables:
        if "seed" not in variable.name:
            variable.assign(draws.uniform(0.1, 1, variable.shape) * draws.choice([-1, 1], variable.shape))
        if "variance" in variable.name:
            variable.assign(np.abs(variable.numpy()))
    return model
