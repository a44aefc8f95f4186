"""Runs the rows of gpu_rows in PyTorch, channels-last, eager and with torch.compile; prints one JSON line each."""
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

SMOKE = "--smoke" in sys.argv
PATTERN = next((a for a in sys.argv[1:] if not a.startswith("--")), "")
DEVICE = "cpu" if SMOKE else "cuda"
DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}


def size_of(full, smoke):
    return smoke if SMOKE else full


def synchronize():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def timed(work, min_seconds=0.03):
    """Seconds of one run, the median over rounds."""
    for _ in range(size_of(5, 1)):
        work()
    synchronize()

    def runs(n):
        start = time.perf_counter()
        for _ in range(n):
            work()
        synchronize()
        return (time.perf_counter() - start) / n

    n = size_of(max(1, int(min_seconds / max(runs(1), 1e-7))), 1)
    return statistics.median(runs(n) for _ in range(size_of(7, 1)))


def report(row, variant, seconds, **more):
    print(json.dumps({"row": row, "variant": f"torch-{variant}", "seconds": seconds, **more}), flush=True)


def variants(function):
    yield "eager", function
    if not SMOKE:
        torch._dynamo.reset()
        yield "compile", torch.compile(function, mode="max-autotune-no-cudagraphs", dynamic=False)


def operation(row, function, inputs, upstream, backward):
    if PATTERN not in row:
        return
    for variant, run in variants(function):
        def work():
            y = run(*inputs)
            if backward:
                torch.autograd.grad(y, [t for t in inputs if t.requires_grad], upstream if y.dim() else None)

        with torch.set_grad_enabled(backward):
            report(row, variant, timed(work))


def random(*shape, dtype, grad=True):
    return torch.randn(*shape, device=DEVICE, dtype=dtype).requires_grad_(grad)


def batch_norms(name, dtype):
    for h, c in [(56, 64), (28, 512), (14, 1024), (7, 2048)]:
        n, h = size_of(256, 2), size_of(h, 3)
        for residual in [False, True]:
            for backward in [False, True]:
                def images(grad=True):
                    x = torch.randn(n, c, h, h, device=DEVICE, dtype=dtype).to(memory_format=torch.channels_last)
                    return x.requires_grad_(grad)

                weight = torch.ones(c, device=DEVICE).requires_grad_()
                bias = torch.full((c,), 0.5, device=DEVICE).requires_grad_()
                mean, var = torch.zeros(c, device=DEVICE), torch.ones(c, device=DEVICE)

                def plain(x, w, b):
                    return F.relu(F.batch_norm(x, mean, var, w, b, True, 0.1, 1e-5), inplace=True)

                def added(x, w, b, r):
                    return F.relu(F.batch_norm(x, mean, var, w, b, True, 0.1, 1e-5).add_(r), inplace=True)

                inputs = [images(), weight, bias] + ([images()] if residual else [])
                direction = "forward+backward" if backward else "forward"
                row = f"batch_norm{'_add' if residual else ''}_relu/{n}x{h}x{h}x{c}/{name}/{direction}"
                operation(row, added if residual else plain, inputs, images(False), backward)


def prepare(name, dtype):
    n, size = size_of(256, 2), size_of(224, 6)
    images = torch.randint(0, 256, (n, 3, size, size), device=DEVICE, dtype=torch.uint8)
    images = images.to(memory_format=torch.channels_last)
    mean = torch.tensor([0.485, 0.456, 0.406], device=DEVICE).view(1, 3, 1, 1) * 255
    std = torch.tensor([0.229, 0.224, 0.225], device=DEVICE).view(1, 3, 1, 1) * 255

    def run(x):
        x = x.float()
        y = ((0.7 * x + 0.3 * x.flip(0) - mean) / std).to(dtype)
        y[:, :, : size // 4, : size // 4] = 0
        return y

    operation(f"prepare/{n}x{size}x{size}x3/{name}/forward", run, [images], None, False)


def others(name, dtype):
    for backward in [False, True]:
        direction = "forward+backward" if backward else "forward"
        n = size_of(1024, 4)
        target = torch.arange(n, device=DEVICE) * 7919 % 1000
        logits = random(n, 1000, dtype=dtype)
        loss = lambda x: F.cross_entropy(x.float(), target, label_smoothing=0.1)
        operation(f"cross_entropy/{n}x1000/{name}/{direction}", loss, [logits], None, backward)
        n = size_of(256, 1)
        x, dy = random(n, 28, 28, 256, dtype=dtype), random(n, 28, 28, 256, dtype=dtype, grad=False)
        operation(f"silu/{n}x28x28x256/{name}/{direction}", F.silu, [x], dy, backward)
        r, scale, shift = random(n, 28, 28, 256, dtype=dtype), random(256, dtype=dtype), random(256, dtype=dtype)
        expression = lambda x, s, b, r: F.silu(x * s + b) + r
        operation(f"expression/{n}x28x28x256/{name}/{direction}", expression, [x, scale, shift, r], dy, backward)
        n = size_of(256 * 196, 4)
        w1, b1 = random(1536, 384, dtype=dtype), random(1536, dtype=dtype)
        w2, b2 = random(384, 1536, dtype=dtype), random(384, dtype=dtype)
        x, dy = random(n, 384, dtype=dtype), random(n, 384, dtype=dtype, grad=False)
        mlp = lambda x, w1, b1, w2, b2: F.linear(F.gelu(F.linear(x, w1, b1), approximate="tanh"), w2, b2)
        operation(f"mlp/{n}x384/{name}/{direction}", mlp, [x, w1, b1, w2, b2], dy, backward)


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
    if name == "resnet50":
        stem = [torch.nn.Conv2d(3, 64, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(64), torch.nn.ReLU(inplace=True)]
        stem.append(torch.nn.MaxPool2d(3, 2, 1))
        kind, depths, widths, classes = bottleneck, [3, 4, 6, 3], [256, 512, 1024, 2048], 1000
    else:
        stem = [torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False), torch.nn.BatchNorm2d(64), torch.nn.ReLU(inplace=True)]
        kind, depths, widths, classes = basic, [2, 2, 2, 2], [64, 128, 256, 512], 10
    layers, c_in = stem, 64
    for stage, (depth, c_out) in enumerate(zip(depths, widths)):
        for block in range(depth):
            layers.append(Block(kind, c_in, c_out, 2 if stage and not block else 1))
            c_in = c_out
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(c_in, classes)]
    model = torch.nn.Sequential(*layers, *head).to(DEVICE, memory_format=torch.channels_last)
    return model.train(), classes


def step(name, half, dtype):
    row = f"step/{name}/{half}"
    if PATTERN not in row:
        return
    n, size = {"resnet50": (256, 224), "resnet18-cifar": (64, 32)}[name]
    n, size = size_of(n, 2), size_of(size, 32)
    for variant in ["eager"] if SMOKE else ["eager", "compile"]:
        torch.manual_seed(0)
        torch._dynamo.reset()
        model, classes = network(name)
        parameters = sum(p.numel() for p in model.parameters())
        assert parameters == {"resnet50": 25_557_032, "resnet18-cifar": 11_173_962}[name], parameters
        run = model if variant == "eager" else torch.compile(model, mode="max-autotune")
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4, fused=not SMOKE)
        scaler = torch.amp.GradScaler(DEVICE, enabled=dtype == torch.float16 and not SMOKE)
        images = torch.randn(n, 3, size, size, device=DEVICE).to(memory_format=torch.channels_last)
        target = torch.arange(n, device=DEVICE) * 7919 % classes

        def work():
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(DEVICE, dtype=dtype):
                loss = F.cross_entropy(run(images), target)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            return loss.item()

        report(row, variant, timed(work, min_seconds=1.0), items=n)


def main():
    torch.backends.cudnn.benchmark = True
    with torch.no_grad():
        n = size_of(256 << 20, 1 << 10)
        a, b = torch.zeros(n, device=DEVICE), torch.empty(n, device=DEVICE)
        if PATTERN in "copy/1GiB":
            report("copy/1GiB", "eager", timed(lambda: b.copy_(a)), bytes=8 * n)
        del a, b
    for name, dtype in DTYPES.items():
        prepare(name, dtype)
        batch_norms(name, dtype)
        others(name, dtype)
    for name in ["resnet50", "resnet18-cifar"]:
        for half, dtype in DTYPES.items():
            step(name, half, dtype)


main()
