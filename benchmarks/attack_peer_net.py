"""A plain PyTorch module of a Keras chain of layers, so that the official code pays for no change of layout."""

import keras
import torch
import torch.nn.functional as F


class ChannelsFirst(torch.nn.Module):
    """A Keras model, run by Keras itself, for images as PyTorch has them, [n, channels, height, width]."""

    def __init__(self, model: keras.Model):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images.permute(0, 2, 3, 1), training=False)


class Chain(torch.nn.Module):
    """The same function in PyTorch's own operations, on PyTorch's layout."""

    def __init__(self, model: keras.Model):
        super().__init__()
        self.steps = []
        grid = None  # what was flattened, whose order the next Dense layer's weights must follow
        for layer in model.layers:
            weights = [torch.tensor(keras.ops.convert_to_numpy(w)) for w in layer.weights]
            kind = type(layer).__name__
            if kind == "Flatten":
                grid = layer.input.shape[1:]
            if kind == "Dense" and grid is not None:
                height, width, channels = grid
                weights[0] = weights[0].reshape(height, width, channels, -1).permute(2, 0, 1, 3).flatten(0, 2)
                grid = None
            self.steps += _steps(layer, kind, weights)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            images = step(images)
        return images


def native(model: keras.Model, images: torch.Tensor) -> torch.nn.Module:
    """The chain, if the model is one and gives the same logits of the images [n, channels, height, width]."""
    plain = ChannelsFirst(model)
    try:
        chain = Chain(model)
    except NotImplementedError as error:
        print(f"run by Keras: {error}")
        return plain
    with torch.no_grad():
        torch.testing.assert_close(chain(images), plain(images), rtol=1e-3, atol=1e-3)
    return chain


def _steps(layer, kind: str, weights: list[torch.Tensor]) -> list:
    if kind in ("InputLayer", "Dropout"):
        return []
    if kind == "Rescaling":
        scale, offset = float(layer.scale), float(layer.offset)
        return [lambda x: x * scale + offset]
    if kind == "Flatten":
        return [lambda x: x.flatten(1)]
    if kind == "ReLU" and layer.max_value is None and not layer.negative_slope and not layer.threshold:
        return [F.relu]
    if kind == "MaxPooling2D" and layer.padding == "valid":
        return [lambda x: F.max_pool2d(x, layer.pool_size, layer.strides)]
    if kind == "BatchNormalization":
        names = {w.name: v for w, v in zip(layer.weights, weights)}
        mean, variance = names["moving_mean"], names["moving_variance"]
        return [lambda x: F.batch_norm(x, mean, variance, names.get("gamma"), names.get("beta"), eps=layer.epsilon)]
    if kind == "Dense":
        kernel, bias = weights[0].T.contiguous(), weights[1] if layer.use_bias else None
        return [lambda x: F.linear(x, kernel, bias), *_activation(layer)]
    if kind == "Conv2D" and layer.groups == 1:
        kernel, bias = weights[0].permute(3, 2, 0, 1).contiguous(), weights[1] if layer.use_bias else None
        pads = [_padding(layer, axis) for axis in (0, 1)]
        if all(before == after for before, after in pads):
            padding = [before for before, _ in pads]
            return [lambda x: F.conv2d(x, kernel, bias, layer.strides, padding), *_activation(layer)]
        around = [*pads[1], *pads[0]]
        return [lambda x: F.conv2d(F.pad(x, around), kernel, bias, layer.strides), *_activation(layer)]
    raise NotImplementedError(f"no PyTorch form of {kind} {layer.name}")


def _padding(layer, axis: int) -> tuple[int, int]:
    if layer.padding == "valid":
        return 0, 0
    size, stride = layer.input.shape[1 + axis], layer.strides[axis]
    total = max((-(-size // stride) - 1) * stride + layer.kernel_size[axis] - size, 0)
    return total // 2, total - total // 2


def _activation(layer) -> list:
    name = layer.activation.__name__
    if name not in ("linear", "relu"):
        raise NotImplementedError(f"no PyTorch form of the activation {name} of {layer.name}")
    return [F.relu] if name == "relu" else []
