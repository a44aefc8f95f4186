"""Writes the images and `expected.json` of train/tests/val_timm.rs with timm 1.0.31, along the lines of its validate.py.

Usage: python generate.py, in this folder. The images are written only if there are none.
"""
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm import __version__, create_model
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.utils import AverageMeter, accuracy

# Models and the gain of their formula weights, with which the logits depend on the image.
MODELS = {"resnet18": 1.2, "mobilenetv3_small_100": 1.95, "convnext_atto": 2.0, "vit_tiny_patch16_224": 2.0}
CLASSES = ["a", "b", "c"]
SIZES = [(61, 47), (97, 131), (150, 90), (224, 224), (113, 75), (301, 187), (88, 88), (45, 120)]
SALT = "validate"


def write_images():
    """Images with gradients, edges and some noise, in odd sizes."""
    for i, (width, height) in enumerate(SIZES):
        rng = np.random.default_rng(i)
        y, x = np.mgrid[0:height, 0:width].astype(np.float64)
        channels = []
        for _ in range(3):
            fx, fy, phase = rng.uniform(0.02, 0.3), rng.uniform(0.02, 0.3), rng.uniform(0, 6)
            channels.append(127 + 90 * np.sin(fx * x + fy * y + phase) * np.cos(fy * x - fx * y))
        image = np.stack(channels, 2)
        image[height // 4 : height // 2, width // 3 : width // 2] = rng.integers(0, 256, 3)
        image += rng.normal(0, 8, image.shape)
        folder = Path("images", CLASSES[i % 3])
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(image.clip(0, 255).astype(np.uint8))
        if i % 4 == 3:
            image.convert("L").save(folder / f"{i}.png")
        elif i % 4 == 2:
            image.quantize(64).save(folder / f"{i}.png")
        else:
            image.save(folder / f"{i}.jpg", quality=85)


def u24(name, n):
    """The integers below 2^24 of tests/golden/README.md."""
    x = (np.arange(n, dtype=np.uint64) * 0x9E3779B1 + zlib.crc32(name.encode())) & 0xFFFFFFFF
    x ^= x >> 16
    x = (x * 0x85EBCA6B) & 0xFFFFFFFF
    x ^= x >> 13
    x = (x * 0xC2B2AE35) & 0xFFFFFFFF
    x ^= x >> 16
    return x >> 8


def entry(name, shape, gain):
    """The formula weights of tests/golden/README.md."""
    n = int(np.prod(shape))
    v = u24(f"{SALT}/{name}", n).astype(np.float64) / 2**23 - 1
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith(("running_mean", "bias")):
        v = 0.1 * v
    elif name.endswith("running_var"):
        v = 1 + 0.25 * v
    elif len(shape) >= 2 and name.endswith("weight"):
        v = np.sqrt(3 * gain / np.prod(shape[1:])) * v
    elif len(shape) == 1:
        v = 1 + 0.2 * v
    else:
        v = 0.1 * v
    return torch.from_numpy(v.astype(np.float32).reshape(shape))


@torch.inference_mode()
def validate(name, use_train_size):
    model = create_model(name, num_classes=len(CLASSES)).eval()
    model.load_state_dict({k: entry(k, tuple(v.shape), MODELS[name]) for k, v in model.state_dict().items()})
    config = resolve_data_config({}, model=model, use_test_size=not use_train_size)
    dataset = create_dataset("", root="images", split="validation")
    loader = create_loader(
        dataset,
        input_size=config["input_size"],
        batch_size=3,
        use_prefetcher=False,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        num_workers=0,
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
        device=torch.device("cpu"),
    )
    criterion = torch.nn.CrossEntropyLoss()
    losses, top1, top5, logits = AverageMeter(), AverageMeter(), AverageMeter(), []
    for images, target in loader:
        output = model(images)
        logits.append(output)
        acc1, acc5 = accuracy(output, target, topk=(1, 5))
        losses.update(criterion(output, target).item(), images.size(0))
        top1.update(acc1.item(), images.size(0))
        top5.update(acc5.item(), images.size(0))
    spread = torch.cat(logits).std(0).mean().item()
    print(name, use_train_size, losses.avg, top1.avg, "spread of the logits over the images:", spread)
    return {
        "model": name,
        "gain": MODELS[name],
        "use_train_size": use_train_size,
        "loss": losses.avg,
        "top1": top1.avg,
        "top5": top5.avg,
        "img_size": config["input_size"][1],
        "crop_pct": config["crop_pct"],
        "interpolation": config["interpolation"],
    }


if not Path("images").exists():
    write_images()
rows = [validate(name, use_train_size) for name in MODELS for use_train_size in [False, True]]
document = {"timm": __version__, "salt": SALT, "results": rows}
Path("expected.json").write_text(json.dumps(document, indent=1) + "\n")
