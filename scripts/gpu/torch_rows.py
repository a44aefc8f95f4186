"""Runs the rows of gpu_rows in PyTorch, channels-last, and prints one JSON line each.

    torch_rows.py --variant eager|compile [--smoke] [--after ROW] [PATTERN…]

A line {"start": ROW} precedes each row, and a line of progress appears every 10 seconds. `--after` continues after a row; a PATTERN selects
the rows whose name contains it.
"""
import argparse
import json
import statistics
import threading
import time

import torch
import torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--variant", choices=["eager", "compile"], default="eager")
parser.add_argument("--smoke", action="store_true", help="small problems on the CPU, to test the suite itself")
parser.add_argument("--after")
parser.add_argument("patterns", nargs="*", default=[""])
GIVEN = parser.parse_args()
SMOKE = GIVEN.smoke
DEVICE = "cpu" if SMOKE else "cuda"
# PyTorch's half-precision kernels on the CPU are slow, and the times of a smoke run mean nothing.
DTYPES = {"f16": torch.float32, "bf16": torch.float32} if SMOKE else {"f16": torch.float16, "bf16": torch.bfloat16}
CLASSES = 1000
skipping = GIVEN.after is not None
runs_done = 0


def is_next(row):
    """Whether to run a row; announces it."""
    global skipping
    run = not skipping and any(pattern in row for pattern in GIVEN.patterns)
    skipping = skipping and row != GIVEN.after
    if run:
        print(json.dumps({"start": row}), flush=True)
    return run


def size_of(full, smoke):
    return smoke if SMOKE else full


def synchronize():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def report_progress():
    """Prints the number of runs every 10 seconds."""
    started = time.monotonic()
    while True:
        time.sleep(10)
        print(f'\n{{"heartbeat": {time.monotonic() - started:.0f}, "runs": {runs_done}}}', flush=True)


def timed(counted, min_seconds=0.03):
    """Seconds of one run, the median over rounds."""
    def work():
        global runs_done
        counted()
        runs_done += 1

    for _ in range(size_of(3, 1)):  # compiles, and chooses cuDNN's algorithms
        work()
    synchronize()

    def runs(n):
        start = time.perf_counter()
        for _ in range(n):
            work()
        synchronize()
        return (time.perf_counter() - start) / n

    runs(2)  # the same warm-up as in gpu_rows
    n = size_of(max(1, int(min_seconds / max(runs(1), 1e-7))), 1)
    return statistics.median(runs(n) for _ in range(size_of(7, 1)))


def report(row, seconds, **more):
    print(json.dumps({"row": row, "variant": f"torch-{GIVEN.variant}", "seconds": seconds, **more}), flush=True)


def variant_of(function):
    if GIVEN.variant == "eager" or SMOKE:
        return function
    torch._dynamo.reset()
    return torch.compile(function, mode="max-autotune-no-cudagraphs", dynamic=False)


def operation(row, function, make_inputs, make_upstream, backward):
    """Runs and reports a row; its operands are made only if it runs."""
    if not is_next(row):
        return
    inputs, upstream, run = make_inputs(), make_upstream and make_upstream(), variant_of(function)

    def work():
        y = run(*inputs)
        if backward:
            torch.autograd.grad(y, [t for t in inputs if t.requires_grad], upstream if y.dim() else None)

    with torch.set_grad_enabled(backward):
        report(row, timed(work))


def random(*shape, dtype, grad=True):
    return torch.randn(*shape, device=DEVICE, dtype=dtype).requires_grad_(grad)


def images(n, h, c, dtype, grad=True):
    x = torch.randn(n, c, h, h, device=DEVICE, dtype=dtype).to(memory_format=torch.channels_last)
    return x.requires_grad_(grad)


def batch_norms(name, dtype):
    for h, c in [(56, 64), (28, 512), (14, 1024), (7, 2048)]:
        n, h = size_of(256, 2), size_of(h, 3)
        for residual in [False, True]:
            for backward in [False, True]:
                batch_norm(name, dtype, n, h, c, residual, backward)


def batch_norm(name, dtype, n, h, c, residual, backward):
    mean, var = torch.zeros(c, device=DEVICE), torch.ones(c, device=DEVICE)

    def plain(x, w, b):
        return F.relu(F.batch_norm(x, mean, var, w, b, True, 0.1, 1e-5), inplace=True)

    def added(x, w, b, r):
        return F.relu(F.batch_norm(x, mean, var, w, b, True, 0.1, 1e-5).add_(r), inplace=True)

    def inputs():
        weight = torch.ones(c, device=DEVICE).requires_grad_()
        bias = torch.full((c,), 0.5, device=DEVICE).requires_grad_()
        return [images(n, h, c, dtype), weight, bias] + ([images(n, h, c, dtype)] if residual else [])

    direction = "forward+backward" if backward else "forward"
    row = f"batch_norm{'_add' if residual else ''}_relu/{n}x{h}x{h}x{c}/{name}/{direction}"
    operation(row, added if residual else plain, inputs, lambda: images(n, h, c, dtype, False), backward)


def pooled_stem(name, dtype):
    n, size, c = size_of(256, 2), size_of(224, 8), 64
    mean, var = torch.zeros(c, device=DEVICE), torch.ones(c, device=DEVICE)

    def run(kernel, w, b, x):
        y = F.batch_norm(F.conv2d(x, kernel, stride=2, padding=3), mean, var, w, b, True, 0.1, 1e-5)
        return F.max_pool2d(F.relu(y, inplace=True), 3, 2, 1)

    def inputs():
        weight = torch.ones(c, device=DEVICE).requires_grad_()
        bias = torch.full((c,), 0.5, device=DEVICE).requires_grad_()
        return [images(c, 7, 3, dtype), weight, bias, images(n, size, 3, dtype, False)]

    for backward in [False, True]:
        direction = "forward+backward" if backward else "forward"
        row = f"pooled_stem/{n}x{size}x{size}x3/{name}/{direction}"
        operation(row, run, inputs, lambda: images(n, size // 4, c, dtype, False), backward)


def prepare(name, dtype):
    n, size = size_of(256, 2), size_of(224, 6)
    mean = torch.tensor([0.485, 0.456, 0.406], device=DEVICE).view(1, 3, 1, 1) * 255
    std = torch.tensor([0.229, 0.224, 0.225], device=DEVICE).view(1, 3, 1, 1) * 255

    def run(x):
        x = x.float()
        y = ((0.7 * x + 0.3 * x.flip(0) - mean) / std).to(dtype)
        y[:, :, : size // 4, : size // 4] = 0
        return y

    def inputs():
        x = torch.randint(0, 256, (n, 3, size, size), device=DEVICE, dtype=torch.uint8)
        return [x.to(memory_format=torch.channels_last)]

    operation(f"prepare/{n}x{size}x{size}x3/{name}/forward", run, inputs, None, False)


def others(name, dtype):
    for backward in [False, True]:
        direction = "forward+backward" if backward else "forward"
        n = size_of(1024, 4)
        target = torch.arange(n, device=DEVICE) * 7919 % 1000
        loss = lambda x: F.cross_entropy(x.float(), target, label_smoothing=0.1)
        operation(f"cross_entropy/{n}x1000/{name}/{direction}", loss, lambda: [random(n, 1000, dtype=dtype)], None, backward)
        n = size_of(256, 1)
        x = lambda grad=True: random(n, 28, 28, 256, dtype=dtype, grad=grad)
        operation(f"silu/{n}x28x28x256/{name}/{direction}", F.silu, lambda: [x()], lambda: x(False), backward)
        expression = lambda x, s, b, r: F.silu(x * s + b) + r
        inputs = lambda: [x(), random(256, dtype=dtype), random(256, dtype=dtype), x()]
        operation(f"expression/{n}x28x28x256/{name}/{direction}", expression, inputs, lambda: x(False), backward)
        rows = size_of(256 * 196, 4)
        mlp = lambda x, w1, b1, w2, b2: F.linear(F.gelu(F.linear(x, w1, b1), approximate="tanh"), w2, b2)
        shapes = [(rows, 384), (1536, 384), (1536,), (384, 1536), (384,)]
        inputs = lambda: [random(*shape, dtype=dtype) for shape in shapes]
        upstream = lambda: random(rows, 384, dtype=dtype, grad=False)
        operation(f"mlp/{rows}x384/{name}/{direction}", mlp, inputs, upstream, backward)


def convolutions(name, dtype):
    """The distinct convolutions of ResNet-50, in the order of their first use."""
    sites, size, c_in = [(224, 3, 64, 7, 2)], 56, 64
    for stage, (width, depth) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            if not block:
                sites.append((size, c_in, 4 * width, 1, stride))
            sites += [(size, c_in, width, 1, 1), (size, width, width, 3, stride), (size // stride, width, 4 * width, 1, 1)]
            size, c_in = size // stride, 4 * width
    sites = list(dict.fromkeys(sites))
    assert len(sites) == 23, sites
    for h, c, c_out, k, stride in sites[: size_of(23, 2)]:
        for gradient in ["forward", "forward+input", "forward+weight"]:
            convolution(name, dtype, size_of(256, 1), size_of(h, 8), c, c_out, k, stride, gradient)


def convolution(name, dtype, n, h, c, c_out, k, stride, gradient):
    def inputs():
        weight = 0.05 * torch.randn(c_out, c, k, k, device=DEVICE, dtype=dtype)
        weight = weight.to(memory_format=torch.channels_last).requires_grad_(gradient == "forward+weight")
        return [images(n, h, c, dtype, gradient == "forward+input"), weight]

    run = lambda x, w: F.conv2d(x, w, stride=stride, padding=k // 2)
    upstream = lambda: images(n, -(-h // stride), c_out, dtype, False)
    operation(f"conv/{n}x{h}x{h}x{c}-{c_out}k{k}s{stride}/{name}/{gradient}", run, inputs, upstream, gradient != "forward")


def basic(c_in, c_out, stride):
    return [(c_in, c_out, 3, stride), (c_out, c_out, 3, 1)]


def bottleneck(c_in, c_out, stride):
    width = c_out // 4
    return [(c_in, width, 1, 1), (width, width, 3, stride), (width, c_out, 1, 1)]


class Block(torch.nn.Module):
    def __init__(self, kind, c_in, c_out, stride):
        super().__init__()
        layers = kind(c_in, c_out, stride)
        conv = lambda i, o, k, s: torch.nn.Conv2d(i, o, k, s, k // 2, bias=False)
        self.convs = torch.nn.ModuleList(conv(*layer) for layer in layers)
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(layer[1]) for layer in layers)
        self.shortcut = None
        if stride != 1 or c_in != c_out:
            self.shortcut = torch.nn.Sequential(conv(c_in, c_out, 1, stride), torch.nn.BatchNorm2d(c_out))

    def forward(self, x):
        y = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            y = norm(conv(y))
            if i + 1 < len(self.convs):
                y = F.relu(y, inplace=True)
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)), inplace=True)


def network(name):
    """The network as in timm and torchvision."""
    kind, depths, widths = {"resnet50": (bottleneck, [3, 4, 6, 3], [256, 512, 1024, 2048]),
                            "resnet18": (basic, [2, 2, 2, 2], [64, 128, 256, 512])}[name]
    layers = [torch.nn.Conv2d(3, 64, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(64), torch.nn.ReLU(inplace=True),
              torch.nn.MaxPool2d(3, 2, 1)]
    c_in = 64
    for stage, (depth, c_out) in enumerate(zip(depths, widths)):
        for block in range(depth):
            layers.append(Block(kind, c_in, c_out, 2 if stage and not block else 1))
            c_in = c_out
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(c_in, CLASSES)]
    return torch.nn.Sequential(*layers, *head).to(DEVICE, memory_format=torch.channels_last).train()


def step(name, half, dtype):
    row = f"step/{name}/{half}"
    if not is_next(row):
        return
    n, side = size_of(256, 2), size_of(224, 64)
    torch.manual_seed(0)
    model = network(name)
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == {"resnet50": 25_557_032, "resnet18": 11_689_512}[name], parameters
    compiled = GIVEN.variant == "compile" and not SMOKE
    run = torch.compile(model, mode="max-autotune") if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4, fused=not SMOKE)
    scaler = torch.amp.GradScaler(DEVICE, enabled=dtype == torch.float16 and not SMOKE)
    images = torch.randint(0, 256, (n, 3, side, side), device=DEVICE, dtype=torch.uint8).to(memory_format=torch.channels_last)
    target = torch.arange(n, device=DEVICE) * 7919 % CLASSES

    def work():
        optimizer.zero_grad(set_to_none=True)
        # As timm's loader prepares a batch of u8 images on the device.
        x = images.float().sub_(127.5).div_(63.75)
        with torch.autocast(DEVICE, dtype=dtype, enabled=not SMOKE):
            loss = F.cross_entropy(run(x), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    report(row, timed(work, min_seconds=1.0), items=n)


def main():
    torch.backends.cudnn.benchmark = True
    n = size_of(256 << 20, 1 << 10)
    buffer = torch.empty(0, device=DEVICE)
    operation("copy/1GiB", lambda a: buffer.resize_(n).copy_(a), lambda: [torch.zeros(n, device=DEVICE)], None, False)
    del buffer
    for name, dtype in DTYPES.items():
        prepare(name, dtype)
        batch_norms(name, dtype)
        pooled_stem(name, dtype)
        others(name, dtype)
    for name, dtype in DTYPES.items():
        convolutions(name, dtype)
    for half, dtype in DTYPES.items():
        step(size_of("resnet50", "resnet18"), half, dtype)


threading.Thread(target=report_progress, daemon=True).start()
main()
