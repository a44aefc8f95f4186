"""Published measurements of several GPUs, which the model is compared with."""
from model import Cluster

# System, source (a link of docs/scaling.md), model, images of one GPU in a step, images/s of one GPU, GPUs that the efficiency is relative to,
# the cluster with assumed speeds, published efficiency.
V100, V100_NETWORK = 130e9, 11e9
P100, P100_NETWORK = 60e9, 5.6e9
PCIE, PCIE_NETWORK = 10e9, 2.8e9
PUBLISHED = [
    ("8 H100, PyTorch, AMP", 1, "resnet50", 256, 2788, 1, Cluster(1, 8, 370e9), 22060 / 8 / 2788),
    ("8 V100, PyTorch, AMP", 2, "resnet50", 256, 893.09, 1, Cluster(1, 8, V100), 6888.75 / 8 / 893.09),
    ("16 V100 (DGX-2), PyTorch, AMP", 2, "resnet50", 256, 894.41, 1, Cluster(1, 16, V100), 13443.82 / 16 / 894.41),
    ("8 V100, PyTorch, f32", 3, "resnet50", 128, 354.40, 1, Cluster(1, 8, V100), 2719.07 / 8 / 354.40),
    ("2 × 8 V100, 100 Gb/s, PyTorch, f32", 3, "resnet50", 128, 354.40, 1, Cluster(2, 8, V100, V100_NETWORK), 5307.21 / 16 / 354.40),
    ("4 × 8 V100, 100 Gb/s, PyTorch, f32", 3, "resnet50", 128, 354.40, 1, Cluster(4, 8, V100, V100_NETWORK), 10632.33 / 32 / 354.40),
    ("8 P100, TensorFlow, f32", 4, "vgg16", 64, 154, 1, Cluster(1, 8, P100), 1081 / 8 / 154),
    ("32 × 8 P100, 50 Gb/s, Caffe2, f32", 5, "resnet50", 32, 32 / 0.18, 8, Cluster(32, 8, P100, P100_NETWORK), 0.90),
    ("128 × 4 Pascal, 25 Gb/s, Horovod, f32", 6, "resnet101", 64, 1656.82 / 16, 1, Cluster(128, 4, PCIE, PCIE_NETWORK), 0.90),
    ("32 × 4 Pascal, 25 Gb/s, Horovod, f32", 7, "vgg16", 64, 154, 1, Cluster(32, 4, PCIE, PCIE_NETWORK), 0.79),
    ("128 × 4 Pascal, 25 Gb/s, Horovod, f32", 6, "vgg16", 64, 154, 1, Cluster(128, 4, PCIE, PCIE_NETWORK), 0.68),
    ("8 × 8 H100, MXNet, MLPerf", 1, "resnet50", 408, 7009, 8, Cluster(8, 8, 370e9), 4607 / 7009),
    # If the 3,264 images of 8 GPUs are divided among 64.
    ("the same, if every step has 3,264 images", 1, "resnet50", 51, 7009, 8, Cluster(8, 8, 370e9), 4607 / 7009),
]
