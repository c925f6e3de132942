"""Operators and small networks for benches/sweep.py, which runs this file where PyTorch is.

Every case is a module or function and the shape of its input. `python sweep_models.py FOLDER THREADS SECONDS [NAME ...]`
exports one after the other to FOLDER/NAME.pt2, times its steps in eager PyTorch, prints `NAME MICROSECONDS`, and waits for a
line before it goes on, so that whoever reads may time the same in between.
"""
import pathlib
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Op(nn.Module):
    """An operator after a parameter of its input's shape, so that gradients flow into its input too."""

    def __init__(self, op, shape):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(shape) + 0.5)
        self.module = op if isinstance(op, nn.Module) else None
        self.op = self.module or op

    def forward(self, x):
        return self.op(x * self.scale)


class Loss(nn.Module):
    """The mean square of what a module makes."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return (self.module(x) ** 2).mean()


class First(nn.Module):
    """The first result of a module, as of a recurrence."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)[0]


class Last(First):
    """What a recurrence ends with, through a layer."""

    def __init__(self, module, head):
        super().__init__(module)
        self.head = head

    def forward(self, x):
        return self.head(super().forward(x)[:, -1])


def mlp(*widths, activation=nn.ReLU):
    layers = [layer for a, b in zip(widths, widths[1:]) for layer in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers[:-1])


class UNet(nn.Module):
    def __init__(self, width=16):
        super().__init__()

        def block(a, b):
            return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(),
                                 nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())

        self.down = nn.ModuleList([block(3, width), block(width, 2 * width), block(2 * width, 4 * width)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)])
        self.joined = nn.ModuleList([block(4 * width, 2 * width), block(2 * width, width)])
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        first = self.down[0](x)
        second = self.down[1](F.max_pool2d(first, 2))
        x = self.down[2](F.max_pool2d(second, 2))
        for up, joined, kept in zip(self.up, self.joined, (second, first)):
            x = joined(torch.cat([up(x), kept], 1))
        return self.out(x)


class Residual(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(),
                                   nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b))
        projected = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))
        self.outer = nn.Identity() if a == b and stride == 1 else projected

    def forward(self, x):
        return F.relu(self.inner(x) + self.outer(x))


class Transformer(nn.Module):
    def __init__(self, width=64, heads=4, layers=2, hidden=256):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, hidden, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.encoder(x).mean(1))


class TextCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv1d(64, 32, taps) for taps in (3, 4, 5)])
        self.head = nn.Linear(96, 2)

    def forward(self, x):
        return self.head(torch.cat([F.relu(convolution(x)).amax(2) for convolution in self.convolutions], 1))


class Sets(nn.Module):
    def __init__(self):
        super().__init__()
        self.each, self.all = mlp(3, 64, 64), mlp(64, 64, 1)

    def forward(self, x):
        return self.all(self.each(x).amax(1))


def stages(*stages):
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    layers += [Residual(*stage) for stage in stages]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def autoencoder(channels):
    return nn.Sequential(nn.Conv2d(channels, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
                         nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, channels, 4, 2, 1))


def generator(*widths):
    layers = [nn.ConvTranspose2d(64, widths[0], 4, 1, 0), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    for a, b in zip(widths, widths[1:]):
        layers += [nn.ConvTranspose2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1), nn.Tanh())


WIDE, ROWS, IMAGES = (64, 1024), (256, 256), (8, 32, 32, 32)
MAPS = (8, 64, 16, 16)

OPERATORS = {
    "conv 3x3 64-64": (nn.Conv2d(64, 64, 3, padding=1), MAPS),
    "conv 3x3 3-32": (nn.Conv2d(3, 32, 3, padding=1), (8, 3, 64, 64)),
    "conv 3x3 32-3": (nn.Conv2d(32, 3, 3, padding=1), IMAGES),
    "conv 3x3 32-1": (nn.Conv2d(32, 1, 3, padding=1), IMAGES),
    "conv 3x3 1-16": (nn.Conv2d(1, 16, 3, padding=1), (16, 1, 28, 28)),
    "conv 3x3 32-64 stride 2": (nn.Conv2d(32, 64, 3, stride=2, padding=1), IMAGES),
    "conv 3x3 16-16": (nn.Conv2d(16, 16, 3, padding=1), (8, 16, 32, 32)),
    "conv 3x3 128-128": (nn.Conv2d(128, 128, 3, padding=1), (2, 128, 28, 28)),
    "conv 16x16 of patches": (nn.Conv2d(3, 192, 16, 16), (2, 3, 224, 224)),
    "conv 1x1 64-128": (nn.Conv2d(64, 128, 1), MAPS),
    "conv 1x1 64-2": (nn.Conv2d(64, 2, 1), (8, 64, 32, 32)),
    "conv 5x5 16-32": (nn.Conv2d(16, 32, 5), (8, 16, 20, 20)),
    "conv 7x7 3-64 stride 2": (nn.Conv2d(3, 64, 7, stride=2, padding=3), (4, 3, 64, 64)),
    "conv 3x3 dilated": (nn.Conv2d(32, 32, 3, padding=2, dilation=2), (8, 32, 16, 16)),
    "conv 3x3 in 4 groups": (nn.Conv2d(64, 64, 3, padding=1, groups=4), MAPS),
    "conv 3x3 depthwise": (nn.Conv2d(64, 64, 3, padding=1, groups=64), MAPS),
    "conv 5x5 depthwise": (nn.Conv2d(64, 64, 5, padding=2, groups=64), MAPS),
    "conv transposed 32-16": (nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1), (8, 32, 16, 16)),
    "conv transposed 32-1": (nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1), (8, 32, 16, 16)),
    "conv transposed to 224x224": (nn.ConvTranspose2d(21, 21, 16, stride=8, padding=4), (1, 21, 28, 28)),
    "conv 1d 32-64": (nn.Conv1d(32, 64, 5, padding=2), (8, 32, 256)),
    "conv 1d 1-32": (nn.Conv1d(1, 32, 9, padding=4), (16, 1, 512)),
    "conv 3d 8-16": (nn.Conv3d(8, 16, 3, padding=1), (2, 8, 8, 16, 16)),
    "max pool 2": (nn.MaxPool2d(2), IMAGES),
    "max pool 3 stride 2": (nn.MaxPool2d(3, 2, 1), IMAGES),
    "mean pool 2": (nn.AvgPool2d(2), IMAGES),
    "mean pool 3 stride 2": (nn.AvgPool2d(3, 2, 1), IMAGES),
    "mean pool to 4x4": (nn.AdaptiveAvgPool2d(4), (8, 32, 16, 16)),
    "upsample bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), (8, 16, 16, 16)),
    "batch norm 2d": (nn.BatchNorm2d(64), (16, 64, 16, 16)),
    "batch norm 1d": (nn.BatchNorm1d(256), (64, 256)),
    "layer norm 256": (nn.LayerNorm(256), (64, 256)),
    "layer norm 1024": (nn.LayerNorm(1024), (512, 1024)),
    "group norm": (nn.GroupNorm(8, 64), MAPS),
    "softmax": (nn.Softmax(-1), (64, 512)),
    "softmax of 8": (nn.Softmax(-1), (4096, 8)),
    "log softmax": (nn.LogSoftmax(-1), (256, 1000)),
    "gelu": (nn.GELU(), WIDE),
    "silu": (nn.SiLU(), WIDE),
    "tanh": (nn.Tanh(), WIDE),
    "sin": (torch.sin, WIDE),
    "atan": (torch.atan, WIDE),
    "pow 1.7": (lambda x: x**1.7, WIDE),
    "pow 3": (lambda x: x**3, WIDE),
    "sqrt": (torch.sqrt, WIDE),
    "where": (lambda x: torch.where(x > 0.7, x * 2, x.exp()), WIDE),
    "cumsum of rows": (lambda x: x.cumsum(1), WIDE),
    "cumsum of columns": (lambda x: x.cumsum(0), WIDE),
    "sum of columns": (lambda x: x.sum(0), (512, 256)),
    "max of columns": (lambda x: x.max(0).values, (1024, 1024)),
    "cumulative maximum": (lambda x: x.cummax(1).values, (64, 256)),
    "remainder": (lambda x: torch.fmod(x, 0.3), (256, 256)),
    "max of rows": (lambda x: x.max(1).values, ROWS),
    "variance": (lambda x: x.var(1), ROWS),
    "sort": (lambda x: x.sort(1).values * torch.arange(256.0), (64, 256)),
    "top 8": (lambda x: x.topk(8, 1).values, (64, 256)),
    "transpose": (lambda x: x.transpose(1, 2) * torch.arange(64.0), (16, 64, 64)),
    "concatenate": (lambda x: torch.cat([x, x * 2, x.abs()], 1), (64, 256)),
    "pad reflected": (lambda x: F.pad(x, (2, 2, 2, 2), mode="reflect"), (8, 16, 16, 16)),
    "unfold": (lambda x: F.unfold(x, 3, padding=1), (4, 16, 16, 16)),
    "gather": (lambda x: x.gather(1, torch.arange(2048).reshape(64, 32) % 256), (64, 256)),
    "embedding": (lambda x: F.embedding(torch.arange(512) % 100, x), (100, 64)),
    "products of 3x3": (lambda x: torch.bmm(x, x), (1024, 3, 3)),
    "products of 16x16": (lambda x: torch.bmm(x, x.transpose(1, 2)), (64, 16, 16)),
    "attention causal": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), (4, 4, 64, 32)),
    "attention of 256": (lambda x: F.scaled_dot_product_attention(x, x, x), (1, 4, 256, 32)),
    "attention of 1024": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), (1, 4, 1024, 64)),
    "linear batch 1": (nn.Linear(256, 256), (1, 256)),
    "linear batch 4": (nn.Linear(256, 256), (4, 256)),
    "linear batch 64": (nn.Linear(256, 256), (64, 256)),
    "linear to 2": (nn.Linear(512, 2), (64, 512)),
    "lstm batch 4": (First(nn.LSTM(16, 64, batch_first=True)), (4, 32, 16)),
    "lstm batch 16": (First(nn.LSTM(32, 128, batch_first=True)), (16, 32, 32)),
    "lstm 512 batch 8": (First(nn.LSTM(128, 512, batch_first=True)), (8, 16, 128)),
    "gru 512 batch 1": (First(nn.GRU(64, 512, batch_first=True)), (1, 16, 64)),
    "gru batch 16": (First(nn.GRU(32, 128, batch_first=True)), (16, 32, 32)),
}

NETWORKS = {
    "mlp batch 1": (mlp(32, 128, 128, 4), (1, 32)),
    "mlp batch 8": (mlp(32, 128, 128, 4), (8, 32)),
    "mlp of a policy": (mlp(17, 64, 64, 6, activation=nn.Tanh), (64, 17)),
    "mlp of a radiance field": (mlp(60, 256, 256, 256, 256, 4), (1024, 60)),
    "tabular": (nn.Sequential(nn.Linear(30, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 1)), (128, 30)),
    "sets": (Sets(), (16, 128, 3)),
    "autoencoder of digits": (autoencoder(1), (8, 1, 28, 28)),
    "autoencoder of colours": (autoencoder(3), (8, 3, 32, 32)),
    "u-net": (UNet(), (4, 3, 64, 64)),
    "resnet-18": (stages((64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1),
                         (256, 512, 2), (512, 512, 1)), (4, 3, 64, 64)),
    "q-network": (nn.Sequential(nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
                                nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(),
                                nn.Linear(512, 6)), (32, 4, 84, 84)),
    "generator": (generator(128, 64, 32), (16, 64, 1, 1)),
    "super-resolution": (nn.Sequential(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1),
                                       nn.ReLU(), nn.Conv2d(32, 4, 3, padding=1), nn.PixelShuffle(2)), (4, 1, 32, 32)),
    "electrocardiogram": (nn.Sequential(nn.Conv1d(1, 16, 7, 2, 3), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2),
                                        nn.Conv1d(16, 32, 5, 2, 2), nn.BatchNorm1d(32), nn.ReLU(),
                                        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 5)), (32, 1, 500)),
    "text cnn": (TextCNN(), (16, 64, 50)),
    "lstm classifier": (Last(nn.LSTM(16, 64, 2, batch_first=True), nn.Linear(64, 3)), (32, 40, 16)),
    "lstm 256": (Last(nn.LSTM(64, 256, batch_first=True), nn.Linear(256, 10)), (32, 30, 64)),
    "gru batch 1": (Last(nn.GRU(8, 32, batch_first=True), nn.Linear(32, 1)), (1, 50, 8)),
    "transformer": (Transformer(), (16, 32, 64)),
    "transformer batch 1": (Transformer(), (1, 32, 64)),
}


def cases():
    operators = {name: (Op(op, shape), shape) for name, (op, shape) in OPERATORS.items()}
    return {**operators, **NETWORKS}


def median_us(module, x, seconds):
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
    times, end = [], time.perf_counter() + seconds
    while len(times) < 8 or time.perf_counter() < end:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        module(x).backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times[3:])


def main(folder, threads, seconds, *names):
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    for name, (module, shape) in cases().items():
        if names and name not in names:
            continue
        module, x = Loss(module).train(), torch.rand(shape)
        torch.export.save(torch.export.export(module, (x,)), pathlib.Path(folder) / f"{name}.pt2")
        print(f"{name}\t{median_us(module, x, float(seconds))}", flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
