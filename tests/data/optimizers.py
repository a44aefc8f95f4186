"""Writes optimizers.{json,safetensors}: updates of every optimizer name by PyTorch 2.12 and timm 1.0.31, in the form of golden/optim_trajectories.

    python tests/data/optimizers.py        needs torch, timm and safetensors

Each case is computed in f64 and, for its tolerance, in f32.
"""
import json
import pathlib

import torch
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2

HERE = pathlib.Path(__file__).parent
SHAPES = {"conv.weight": (3, 2, 2, 2), "fc.weight": (4, 5), "fc.bias": (4,), "norm.weight": (3,)}
FACTORS = [1.0, 1.0, 0.5, 0.5, 1.5, 1.5, 0.1, 1.0]
NAMES = """adabelief adadelta adafactor adagrad adam adamax adamc adamp adamw adamwlegacy adan adanw adopt adoptc adoptw cadamc cadamp cadamw
cadan cadanw cadopt cadoptc cadoptw clamb clambw claprop clion clionc cnadamc cnadamw crmsproptf csgdc csgdp csgdw lamb lambc lambcd lambcw
lambw laprop lapropc larc lars lion lionc madgrad madgradw momentum nadam nadamc nadamw nesterov nesterovw nlarc nlars novograd novogradc
novogradw radabelief radam radamw rmsprop rmsproptf rmsproptfc rmsproptfw sgd sgdc sgdp sgdw lookahead_adan lookahead_nadam""".split()
VARIANTS = [(name, {}) for name in NAMES] + [
    ("sgdw", {"dampening": 0.2, "nesterov": False}), ("sgdw", {"momentum": 0.0, "nesterov": False}), ("sgdp", {"dampening": 0.1}),
    ("lars", {"dampening": 0.3}), ("lars", {"always_adapt": True}), ("nadam", {"decoupled_weight_decay": True, "momentum_decay": 0.01}),
    ("radam", {"betas": (0.8, 0.99)}), ("adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.2}), ("rmsprop", {"centered": True}),
    ("rmsproptf", {"centered": True, "alpha": 0.95}), ("crmsproptf", {"lr_in_momentum": False}), ("lamb", {"bias_correction": False}),
    ("clamb", {"always_adapt": True}), ("adopt", {"clip_exp": None}), ("novograd", {"grad_averaging": True}),
    ("adafactor", {"betas": (0.9, 0.99)}), ("adafactor", {"betas": (0.9, 0.99), "caution": True}),
    ("adafactor", {"min_dim_size_to_factor": 1}), ("adamp", {"delta": 5.0}), ("sgdp", {"delta": 5.0}), ("cadamp", {"delta": 5.0}),
    ("csgdp", {"delta": 5.0}), ("cadamp", {"delta": 1.0}), ("csgdp", {"delta": 1.0}), ("cadamw", {"amsgrad": True}),
    ("radabelief", {"amsgrad": True, "decoupled_decay": False}), ("madgradw", {"momentum": 0.0}),
]


def main():
    torch.manual_seed(1)
    single = lambda t: t.float().double()
    init = {k: single(torch.randn(s, dtype=torch.float64) * 0.3) for k, s in SHAPES.items()}
    grads = {k: single(torch.randn(len(FACTORS), *s, dtype=torch.float64) * 0.5) for k, s in SHAPES.items()}
    tensors = {f"init/{k}": v.float() for k, v in init.items()} | {f"grads/{k}": v.float() for k, v in grads.items()}
    cases = []
    for name, options in VARIANTS:
        lr = {"adadelta": 1.0, "lion": 3e-3}.get(name, 0.5 if "lar" in name else 0.1 if "sgd" in name else 0.01)
        exact, rounded = (run(name, lr, options, init, grads, dtype) for dtype in (torch.float64, torch.float32))
        case = {"id": "_".join([name] + [f"{k}={v}" for k, v in options.items()]), "optimizer": name}
        case |= {"args": {"lr": lr, "weight_decay": 0.05, **options}, "trajectory": {}, "tol": {}}
        for key, values in exact.items():
            tensor = f"{case['id']}/{key}"
            tensors[tensor] = values.float()
            gap, size = (values - rounded[key]).abs().max().item(), values.abs().max().item()
            case["trajectory"][key] = tensor
            case["tol"][tensor] = {"atol": max(10 * gap, 4e-6 * size), "rtol": 1e-5}
        cases.append(case)
    document = {"tensors": "optimizers.safetensors", "parameters": {k: {} for k in SHAPES}, "lr_factor": FACTORS, "cases": cases}
    (HERE / "optimizers.json").write_text(json.dumps(document))
    save_file({k: v.contiguous() for k, v in tensors.items()}, HERE / "optimizers.safetensors")


def run(name, lr, options, init, grads, dtype):
    parameters = {k: torch.nn.Parameter(v.to(dtype).clone()) for k, v in init.items()}
    decays = lambda k: parameters[k].ndim > 1 and not k.endswith(".bias")
    groups = [{"params": [p for k, p in parameters.items() if decays(k) == yes], "weight_decay": 0.05 * yes} for yes in (False, True)]
    options = {"momentum": 0.9, **options}
    optimizer = create_optimizer_v2(groups, opt=name, lr=lr, weight_decay=0.05, **options)
    history = {k: [] for k in parameters}
    for step, factor in enumerate(FACTORS):
        for group in optimizer.param_groups:
            group["lr"] = lr * factor
        for k, p in parameters.items():
            p.grad = grads[k][step].to(dtype).clone()
        optimizer.step()
        for k, p in parameters.items():
            history[k].append(p.detach().double().clone())
    return {k: torch.stack(v) for k, v in history.items()}


if __name__ == "__main__":
    main()
