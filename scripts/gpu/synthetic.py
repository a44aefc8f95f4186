"""Generated images in IDX format, which Fornax maps into memory."""
import dataclasses
import random
import struct


@dataclasses.dataclass
class Sizes:
    """Number and side of the training images, batch size, and number of updates."""

    images: int
    side: int
    batch: int
    updates: int


FULL = Sizes(images=2560, side=224, batch=256, updates=200)
SMOKE = Sizes(images=4, side=64, batch=2, updates=6)
CLASSES = 10


def write(folder, sizes):
    """Writes a training split and a validation split of one batch."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)
    for split, count in [("train", sizes.images), ("validation", sizes.batch)]:
        with open(folder / f"{split}-images-idx4-ubyte", "wb") as file:
            file.write(struct.pack(">4B4I", 0, 0, 8, 4, count, sizes.side, sizes.side, 3))
            for _ in range(count):
                file.write(generator.randbytes(sizes.side * sizes.side * 3))
        with open(folder / f"{split}-labels-idx1-ubyte", "wb") as file:
            file.write(struct.pack(">4BI", 0, 0, 8, 1, count) + bytes(i % CLASSES for i in range(count)))
