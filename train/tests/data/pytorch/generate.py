"""Writes the PyTorch files of train/tests/pytorch.rs with torch 2."""
import argparse
from collections import OrderedDict

import torch

torch.manual_seed(0)
conv = torch.arange(24.0).reshape(2, 3, 2, 2)
state = OrderedDict(
    [
        ("conv.weight", conv),
        ("bn.running_mean", torch.tensor([0.5, -1.5])),
        ("bn.num_batches_tracked", torch.tensor(7)),
        ("fc.weight", torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])),
    ]
)
state._metadata = OrderedDict([("", {"version": 1})])
ema = OrderedDict((k, v + 1) for k, v in state.items())
layer = torch.nn.Linear(2, 3)
optimizer = torch.optim.AdamW(layer.parameters())
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
args = argparse.Namespace(model="resnet18", lr=0.1, mean=None, opt_betas=(0.9, 0.999), data_dir="x")

torch.save(state, "plain.pth")
torch.save({"model": state}, "model.pth")
torch.save(
    {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
        "version": 2,
        "args": args,
        "amp_scaler": {"scale": 65536.0},
        "state_dict_ema": ema,
        "metric": 77.5,
    },
    "timm.pth.tar",
)
lightning = OrderedDict(("model." + k, v) for k, v in state.items())
torch.save({"epoch": 1, "pytorch-lightning_version": "2.0", "state_dict": lightning, "loops": {}}, "lightning.ckpt")
torch.save({"net": state, "epoch": 1}, "net.pt")
torch.save({"module." + k: v for k, v in state.items()}, "ddp.pt")
torch.save(state, "legacy.pth", _use_new_zipfile_serialization=False)
torch.save(layer, "whole.pth")
torch.save({"state_dict": state, "model": layer}, "both.pth")
views = torch.arange(12.0).reshape(3, 4)
torch.save(
    {
        "channels_last": conv.contiguous(memory_format=torch.channels_last),
        "transposed": views.t(),
        "part": views[1:, 1:3],
        "shared": views,
        "parameter": torch.nn.Parameter(torch.tensor([1.0, 2.0])),
        "empty": torch.zeros(0, 3),
        "expanded": torch.tensor([2.0]).expand(3),
    },
    "views.pth",
)
dtypes = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32"]
tensors = {name: torch.tensor([1, 2, 3]).to(getattr(torch, name)) for name in dtypes}
tensors["bool"] = torch.tensor([True, False, True])
tensors["negative"] = torch.tensor([-1, -2, -3], dtype=torch.int8)
torch.save(tensors, "dtypes.pth")
torch.save({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.complex64)}, "complex.pth")
