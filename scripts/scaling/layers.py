"""Layers of networks at 224 x 224 with 1,000 classes: multiply-adds of the forward pass of one image, and sizes of the parameters."""
import json
import pathlib


def resnet(blocks):
    """Layers of a bottleneck ResNet; the stride is in the 3x3 convolution."""
    layers = []

    def convolution(inputs, outputs, kernel, side):
        weight = inputs * outputs * kernel**2
        layers.append((weight * side**2, (weight, outputs, outputs)))

    convolution(3, 64, 7, 112)
    inputs, side = 64, 56
    for stage, count in enumerate(blocks):
        width = 64 << stage
        for block in range(count):
            before = side
            side //= 2 if stage and not block else 1
            convolution(inputs, width, 1, before)
            convolution(width, width, 3, side)
            convolution(width, 4 * width, 1, side)
            if not block:
                convolution(inputs, 4 * width, 1, side)
            inputs = 4 * width
    return (*layers, linear(inputs, 1000))


def vgg16():
    """Layers of VGG-16."""
    layers, inputs, side = [], 3, 224
    for width, count in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]:
        for _ in range(count):
            weight = inputs * width * 9
            layers.append((weight * side**2, (weight, width)))
            inputs = width
        side //= 2
    return (*layers, linear(512 * 49, 4096), linear(4096, 4096), linear(4096, 1000))


def linear(inputs, outputs):
    return (inputs * outputs, (inputs * outputs, outputs))


MODELS = {
    "resnet50": lambda: resnet((3, 4, 6, 3)),
    "resnet101": lambda: resnet((3, 4, 23, 3)),
    "vgg16": vgg16,
}


def read(path):
    """Layers that `fornax models show NAME --json` printed."""
    shown = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
    return tuple((layer["macs"], (layer["parameters"],)) for layer in shown if layer["parameters"])
