#!/usr/bin/env python3
"""Make the programs of this folder and PyTorch's numbers for them.

    python3 tests/cases/aten/make.py [FAMILY…]        # PyTorch 2.15, safetensors, onnx 1.23, onnxscript

A program applies the functions of one family, each to a part of the input times a parameter of its own, and joins the
results. `<family>.pt2` is its export without what says where it was made; `<family>.safetensors` has inputs, target, the
losses of two steps of SGD on the mean squared error and the first gradients, computed in double precision;
`<family>.f32.json` how far PyTorch itself is from them in single precision. `<family>.onnx` is the same program by the
ONNX exporter.
"""
import json
import pathlib
import sys
import zipfile

import onnx
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
INPUT = 256
LEARNING_RATE = 0.01
# Families that are exported to ONNX as well.
ONNX = ["activation", "index", "inverse", "sample"]

# Operands in the domain of a function.
positive = lambda x: x.abs() + 0.1
small = lambda x: torch.tanh(x) * 0.9
three = lambda: torch.tensor([3, 0, 2])
labels = lambda: torch.tensor([0, 3, 1, 2])
share = lambda like: torch.linspace(0.05, 0.95, like.numel(), dtype=like.dtype).view(like.shape)
signs = lambda like: torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=like.dtype)
weights = lambda like: torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=like.dtype)


def written(shape, write):
    """A function that writes into zeros of a shape."""
    def apply(x):
        y = torch.zeros(shape, dtype=x.dtype)
        write(y, x)
        return y
    return apply


def assigned(write):
    """A function that writes into a copy."""
    def apply(x):
        y = x.clone()
        write(y, x)
        return y
    return apply


def put(y, at, value):
    y[at] = value


def attended(**options):
    return lambda x: F.scaled_dot_product_attention(x, x * 0.5, x + 1, **options)


def hidden_row(kind):
    """A causal mask in which row 2 sees nothing."""
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    mask[2] = False
    return mask if kind == "bool" else torch.zeros(5, 5).masked_fill(~mask, float("-inf"))


def scatter_reduced(kind, with_self):
    """Elements of rows on each other's."""
    at = torch.tensor([[0, 1, 1, 3, 3], [1, 1, 0, 0, 0], [0, 0, 0, 2, 2], [3, 0, 1, 2, 0]])
    return lambda x: (x * 0.5).scatter_reduce(0, at, x, kind, include_self=with_self)


def sampled(mode, outside, corners):
    """An image at places that it says itself, some outside of it."""
    return lambda x: F.grid_sample(x, x[:, :, :3].permute(0, 2, 3, 1) * 1.7, mode, outside, corners)


SQUARE, MATRIX, IMAGE = (4, 4), (4, 5), (1, 2, 4, 4)

FAMILIES = {
    "math": [
        ("log1p", MATRIX, lambda x: torch.log1p(positive(x))), ("log1p_near_0", MATRIX, lambda x: torch.log1p(x * 1e-4)),
        ("expm1", MATRIX, torch.expm1), ("expm1_near_0", MATRIX, lambda x: torch.expm1(x * 1e-4)),
        ("exp2", MATRIX, torch.exp2), ("log2", MATRIX, lambda x: torch.log2(positive(x))),
        ("log10", MATRIX, lambda x: torch.log10(positive(x))), ("sinh", MATRIX, torch.sinh), ("cosh", MATRIX, torch.cosh),
        ("tan", MATRIX, lambda x: torch.tan(small(x))), ("trunc", MATRIX, lambda x: x * torch.trunc(x)),
        ("frac", MATRIX, torch.frac), ("sgn", MATRIX, lambda x: torch.positive(x) * torch.sgn(x)),
        ("logaddexp", MATRIX, lambda x: torch.logaddexp(x, 2 * x)), ("hypot", MATRIX, lambda x: torch.hypot(x, x + 1)),
        ("fmod", MATRIX, lambda x: torch.fmod(x, 0.7)), ("remainder", MATRIX, lambda x: torch.remainder(x, -0.7)),
        ("float_power", MATRIX, lambda x: torch.float_power(positive(x), 1.7).to(x.dtype)),
        ("pow_of_number", MATRIX, lambda x: 1.7**x),
        ("div_trunc", MATRIX, lambda x: x * torch.div(x, 0.3, rounding_mode="trunc")),
        ("is_nan", MATRIX, lambda x: torch.where(torch.isnan(x), 0.0, x)),
        ("is_inf", MATRIX, lambda x: torch.where(torch.isinf(x) | ~torch.isfinite(x), 0.0, x)),
        ("nan_to_num", MATRIX, torch.nan_to_num), ("abs_of_integers", MATRIX, lambda x: x * (torch.arange(5) - 2).abs()),
        ("clamp_tensor", MATRIX, lambda x: torch.clamp(x, -torch.ones(5, dtype=x.dtype), torch.ones(5, dtype=x.dtype))),
        ("atan2_of_zeros", MATRIX, lambda x: torch.atan2(x * 0, x * torch.tensor([0.0, 1, 1, 0, 1], dtype=x.dtype))),
        ("and_of_booleans", MATRIX, lambda x: x * ((x > 0) * (x < 1))),
    ],
    "inverse": [
        ("acos", MATRIX, lambda x: torch.acos(small(x))), ("asin", MATRIX, lambda x: torch.asin(small(x))),
        ("atan", MATRIX, torch.atan), ("atan2", MATRIX, lambda x: torch.atan2(x, x.flip(0))),
        ("asinh", MATRIX, torch.asinh), ("acosh", MATRIX, lambda x: torch.acosh(positive(x) + 1)),
        ("atanh", MATRIX, lambda x: torch.atanh(small(x))), ("atan_of_large", MATRIX, lambda x: torch.atan(x * 50)),
        ("asinh_of_large", MATRIX, lambda x: torch.asinh(x * 50)), ("asin_of_small", MATRIX, lambda x: torch.asin(x * 1e-3)),
    ],
    "activation": [
        ("selu", MATRIX, F.selu), ("celu", MATRIX, lambda x: F.celu(x, 1.3)), ("elu", MATRIX, lambda x: F.elu(x, 0.7)),
        ("glu", (4, 6), F.glu), ("hardshrink", MATRIX, F.hardshrink), ("softshrink", MATRIX, F.softshrink),
        ("threshold", MATRIX, lambda x: F.threshold(x, 0.1, 0.2)), ("softsign", MATRIX, F.softsign),
        ("logit", MATRIX, lambda x: torch.logit(torch.sigmoid(x), 1e-3)), ("tanhshrink", MATRIX, F.tanhshrink),
        ("softplus", MATRIX, lambda x: F.softplus(x, 2.0, 1.5)), ("softmin", MATRIX, lambda x: F.softmin(x, -1)),
    ],
    "reduction": [
        ("max_dim", MATRIX, lambda x: x.max(1)[0]), ("min_dim", MATRIX, lambda x: x.min(0, keepdim=True)[0]),
        ("argmin", MATRIX, lambda x: x * x.argmin(1, keepdim=True)), ("argmax", MATRIX, lambda x: x * x.argmax()),
        ("aminmax", MATRIX, lambda x: sum(torch.aminmax(x, dim=1))), ("median", MATRIX, lambda x: x.median(1)[0]),
        ("kthvalue", MATRIX, lambda x: x.kthvalue(2, 0)[0]), ("sort", MATRIX, lambda x: x.sort(1, True)[0]),
        ("argsort", MATRIX, lambda x: x.gather(1, x.argsort(1))), ("topk", MATRIX, lambda x: x.topk(2, 1, False)[0]),
        ("cumsum", MATRIX, lambda x: x.cumsum(1)), ("cumprod", MATRIX, lambda x: x.cumprod(0)),
        ("cummax", MATRIX, lambda x: x.cummax(1)[0]), ("cummin", MATRIX, lambda x: x.cummin(0)[0]),
        ("cummax_of_equal", MATRIX, lambda x: (x * torch.tensor([0.0, 0, 1, 0, 1], dtype=x.dtype)).cummax(1)[0]),
        ("logcumsumexp", MATRIX, lambda x: x.logcumsumexp(1)),
        ("any_all", MATRIX, lambda x: x * (x > 0).any(1, True) * (x > -9).all(0)),
        ("count_nonzero", MATRIX, lambda x: x * torch.count_nonzero(x > 0)), ("nansum", MATRIX, lambda x: x.nansum(1)),
        ("norm_1", MATRIX, lambda x: torch.norm(x, 1, 1)), ("norm_2", MATRIX, lambda x: torch.norm(x, dim=1)),
        ("norm_3", MATRIX, lambda x: torch.linalg.vector_norm(x, 3, 1)), ("norm_all", MATRIX, torch.norm),
        ("norm_inf", MATRIX, lambda x: torch.linalg.vector_norm(x, float("inf"), 1)),
        ("norm_of_zeros", MATRIX, lambda x: F.normalize(x * torch.tensor([[0.0], [1], [1], [1]], dtype=x.dtype), dim=1)),
        ("std_mean", MATRIX, lambda x: sum(torch.std_mean(x, 1))), ("var_mean", MATRIX, lambda x: sum(torch.var_mean(x, 1))),
        ("diff", MATRIX, lambda x: x.diff(dim=1)), ("cosine", MATRIX, lambda x: F.cosine_similarity(x, x + 1, dim=1)),
        ("cdist", MATRIX, lambda x: torch.cdist(x, x + 1)),
        ("pairwise", MATRIX, lambda x: F.pairwise_distance(x, x * x, 1.5, keepdim=True)),
    ],
    "index": [
        ("rows", MATRIX, lambda x: x[three()]), ("negative", MATRIX, lambda x: x[-three()]),
        ("pairs", MATRIX, lambda x: x[torch.tensor([0, 1, 3]), torch.tensor([2, 2, 4])]),
        ("middle", (3, 4, 2), lambda x: x[:, three()]), ("grid", MATRIX, lambda x: x[three()[:, None], torch.tensor([1, 4])]),
        ("apart", (3, 2, 4), lambda x: x[torch.tensor([0, 1]), :, torch.tensor([1, 2])]),
        ("new_axis", MATRIX, lambda x: x[:, None, three()]), ("select", MATRIX, lambda x: x.index_select(1, three())),
        ("gather", MATRIX, lambda x: x.gather(1, torch.tensor([[0, 1], [4, 2], [3, 3]]))),
        ("take_along", MATRIX, lambda x: torch.take_along_dim(x, x.argmax(1, keepdim=True), 1)),
        ("scatter", MATRIX, lambda x: torch.zeros(4, 6, dtype=x.dtype).scatter(1, torch.tensor([[4, 1, 2, 3, 0]] * 4), x)),
        ("scatter_short", MATRIX, lambda x: x.scatter(1, torch.tensor([[0, 3], [4, 2]]), share(x))),
        ("scatter_value", MATRIX, lambda x: x.scatter(1, torch.tensor([[0], [1], [2], [3]]), 1.5)),
        ("scatter_add", MATRIX, lambda x: x.scatter_add(1, torch.tensor([[0, 1, 1, 3, 3]] * 3), share(x))),
        ("scatter_reduce", MATRIX, lambda x: x.scatter_reduce(0, torch.tensor([[0, 1, 1, 3, 3]] * 4), x, "sum")),
        ("put", MATRIX, written((6, 5), lambda y, x: put(y, torch.tensor([0, 2, 3, 5]), x))),
        ("put_pairs", (3,), written((4, 5), lambda y, x: put(y, (three(), torch.tensor([1, 4, 4])), x))),
        ("put_columns", (4, 2), written((4, 5), lambda y, x: put(y, (slice(None), torch.tensor([3, 1])), x))),
        ("accumulate", MATRIX, lambda x: x.index_put((torch.tensor([0, 2, 2, 1]),), x, accumulate=True)),
        ("put_mask", MATRIX, assigned(lambda y, x: put(y, x > 0.3, 0.0))),
        ("add", MATRIX, lambda x: torch.zeros(6, 5, dtype=x.dtype).index_add(0, torch.tensor([0, 2, 2, 5]), x, alpha=2)),
        ("copied", MATRIX, lambda x: torch.zeros(4, 6, dtype=x.dtype).index_copy(1, torch.tensor([5, 2, 3, 0, 1]), x)),
        ("fill", MATRIX, lambda x: x.index_fill(1, three(), 0.5)), ("one_hot", MATRIX, lambda x: x * F.one_hot(x.argmax(1), 5)),
        ("assign_columns", MATRIX, assigned(lambda y, x: put(y, (slice(None), slice(1, 3)), 0.0))),
        ("assign_column", MATRIX, assigned(lambda y, x: put(y, (slice(None), 0), x[:, 1]))),
        ("assign_element", MATRIX, assigned(lambda y, x: put(y, (1, 2), x[3, 4] * x[0, 0]))),
        ("assign_steps", MATRIX, assigned(lambda y, x: put(y, slice(None, None, 2), x[1:3] * 2))),
        ("slice_scatter", MATRIX, lambda x: torch.slice_scatter(torch.zeros(4, 8, dtype=x.dtype), x, 1, 1, 6)),
        ("select_scatter", MATRIX, lambda x: torch.select_scatter(x, x[0] * 3, 0, -1)),
    ],
    "combine": [
        *[(f"{kind}_{'with' if own else 'without'}", MATRIX, scatter_reduced(kind, own))
          for kind in ("sum", "prod", "mean", "amax", "amin") for own in (True, False)],
        ("masked_scatter", MATRIX, lambda x: x.masked_scatter(torch.tensor([1, 0, 1, 0, 1]).bool(), x * 2 + 1)),
        ("bucketize", MATRIX, lambda x: x * torch.bucketize(x.detach(), share(x[0]))),
        ("search_right", MATRIX, lambda x: x * torch.searchsorted(share(x[0]), x.detach(), right=True)),
        ("search_lines", MATRIX, lambda x: x * torch.searchsorted(x.detach().sort(1)[0], x.detach() + 0.1)),
        *[(f"bags_{mode}", MATRIX, lambda x, mode=mode: F.embedding_bag(torch.tensor([[0, 1], [3, 3], [2, 0]]), x, mode=mode))
          for mode in ("sum", "mean", "max")],
        *[(f"uneven_bags_{mode}", MATRIX, lambda x, mode=mode: F.embedding_bag(torch.tensor([0, 1, 3, 2, 1]), x, torch.tensor([0, 2, 2]), mode=mode, padding_idx=1))
          for mode in ("sum", "mean", "max")],
        ("weighted_bags", MATRIX, lambda x: F.embedding_bag(torch.tensor([[0, 1], [3, 3]]), x, mode="sum", per_sample_weights=x[:2, :2])),
    ],
    "rearrange": [
        ("lower_triangle", MATRIX, lambda x: x[tuple(torch.tril_indices(4, 5, -1))]),
        ("upper_triangle", MATRIX, lambda x: x[tuple(torch.triu_indices(4, 5, 1))]),
        ("roll", MATRIX, lambda x: x.roll((1, -2), (0, 1))), ("roll_flat", MATRIX, lambda x: x.roll(2)),
        ("rot90", MATRIX, torch.rot90), ("rot90_back", MATRIX, lambda x: torch.rot90(x, 3)),
        ("pixel_shuffle", (1, 8, 2, 3), lambda x: F.pixel_shuffle(x, 2)),
        ("pixel_unshuffle", (1, 2, 4, 6), lambda x: F.pixel_unshuffle(x, 2)),
        ("channel_shuffle", (1, 6, 2), lambda x: F.channel_shuffle(x, 2)),
        ("repeat_interleave", MATRIX, lambda x: x.repeat_interleave(2, dim=1)), ("tile", MATRIX, lambda x: x.tile(2, 1)),
        ("movedim", (4, 3, 2), lambda x: x.movedim(0, -1)), ("swapaxes", MATRIX, lambda x: x.swapaxes(0, 1)),
        ("hstack", MATRIX, lambda x: torch.hstack([x, x * 2])), ("vstack", (5,), lambda x: torch.vstack([x, x * 2])),
        ("tensor_split", MATRIX, lambda x: torch.cat([t * k for k, t in enumerate(x.tensor_split(3, 1))], 1)),
        ("meshgrid", (2, 4), lambda x: sum(torch.meshgrid(x[0], x[1], indexing="xy"))), ("ravel", MATRIX, torch.ravel),
        ("block_diag", MATRIX, lambda x: torch.block_diag(x, x[:2])), ("atleast", MATRIX, torch.atleast_3d),
        ("broadcast_to", MATRIX, lambda x: x.broadcast_to(2, 4, 5)), ("diagonal", MATRIX, lambda x: x.diagonal(1)),
        ("diagonal_below", (3, 4, 2), lambda x: x.diagonal(-1, 1, 0)), ("trace", MATRIX, lambda x: x.trace()),
        ("diag_embed", MATRIX, lambda x: torch.diag_embed(x, -1)), ("eye", SQUARE, lambda x: x @ torch.eye(4, 5, dtype=x.dtype)),
        ("unfold", (2, 9), lambda x: x.unfold(1, 3, 2)), ("im2col", IMAGE, lambda x: F.unfold(x, 3, padding=1, stride=2)),
        ("fold", (1, 8, 9), lambda x: F.fold(x, (4, 4), 2)), ("pad_reflect", IMAGE, lambda x: F.pad(x, (1, 2, 3, 0), "reflect")),
        ("pad_replicate", IMAGE, lambda x: F.pad(x, (1, 2, 3, 0), "replicate")),
        ("pad_circular", IMAGE, lambda x: F.pad(x, (1, 2, 3, 0), "circular")),
        ("pad_negative", MATRIX, lambda x: F.pad(x, (-1, 1))),
    ],
    "sample": [
        *[(f"grid_{mode}_{outside}_{'corners' if corners else 'edges'}", IMAGE, sampled(mode, outside, corners))
          for mode in ("bilinear", "nearest") for outside in ("zeros", "border", "reflection") for corners in (True, False)],
        ("affine", (1, 2, 3), lambda x: F.affine_grid(x, [1, 1, 3, 2], align_corners=False)),
        ("affine_corners", (1, 2, 3), lambda x: F.affine_grid(x, [1, 1, 3, 2], align_corners=True)),
        ("fold", (1, 8, 9), lambda x: F.fold(x, (4, 4), 2)), ("pad_replicate", IMAGE, lambda x: F.pad(x, (1, 2, 3, 0), "replicate")),
        ("pad_reflect", IMAGE, lambda x: F.pad(x, (1, 2, 3, 0), "reflect")),
    ],
    "image": [
        ("nearest", IMAGE, lambda x: F.interpolate(x, scale_factor=2)), ("nearest_to", IMAGE, lambda x: F.interpolate(x, (7, 3))),
        ("nearest_exact", IMAGE, lambda x: F.interpolate(x, (7, 3), mode="nearest-exact")),
        ("bilinear", IMAGE, lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
        ("bilinear_down", IMAGE, lambda x: F.interpolate(x, (3, 2), mode="bilinear")),
        ("bilinear_corners", IMAGE, lambda x: F.interpolate(x, (7, 6), mode="bilinear", align_corners=True)),
        ("linear", (1, 2, 5), lambda x: F.interpolate(x, scale_factor=1.5, mode="linear")),
        ("trilinear", (1, 1, 2, 3, 3), lambda x: F.interpolate(x, scale_factor=2, mode="trilinear")),
        ("bicubic", IMAGE, lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")),
        ("bicubic_corners", IMAGE, lambda x: F.interpolate(x, (6, 7), mode="bicubic", align_corners=True)),
        ("area", IMAGE, lambda x: F.interpolate(x, (2, 2), mode="area")),
        ("adaptive", (1, 2, 5, 5), lambda x: F.adaptive_avg_pool2d(x, (3, 4))),
        ("adaptive_max", IMAGE, lambda x: F.adaptive_max_pool2d(x, 2)),
        ("avg_ceil", IMAGE, lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True)),
        ("avg_ceil_excluded", IMAGE, lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)),
        ("avg_divisor", IMAGE, lambda x: F.avg_pool2d(x, 2, divisor_override=3)),
        ("avg_3d", (1, 2, 2, 4, 4), lambda x: F.avg_pool3d(x, 2)), ("max_3d", (1, 2, 2, 4, 4), lambda x: F.max_pool3d(x, 2)),
        ("lp_pool", IMAGE, lambda x: F.lp_pool2d(x, 2, 2)),
    ],
    "product": [
        ("batch", (2, 3, 4), lambda x: torch.einsum("bij,bkj->bik", x, x)), ("outer_sum", (3, 4), lambda x: torch.einsum("i,j", x[0], x[1])),
        ("three", (3, 4), lambda x: torch.einsum("bi,ij,bj->b", x, share(x[:1].T @ x[:1]), x)),
        ("diagonals", (2, 3, 3), lambda x: torch.einsum("bii->bi", x)), ("ellipsis", (2, 2, 3, 4), lambda x: torch.einsum("...ij,...kj->...ik", x, x)),
        ("outer", (2, 4), lambda x: torch.outer(x[0], x[1])), ("inner", (3, 4), lambda x: torch.inner(x, x)),
        ("vdot", (2, 4), lambda x: torch.vdot(x[0], x[1])), ("addmv", SQUARE, lambda x: torch.addmv(x[0], x, x[1], alpha=2)),
        ("addr", SQUARE, lambda x: torch.addr(x, x[0], x[1], beta=0.5)), ("addbmm", (2, 3, 3), lambda x: torch.addbmm(x[0], x, x)),
        ("tensordot", (3, 4, 2), lambda x: torch.tensordot(x, x, dims=([1, 2], [1, 2]))), ("kron", (2, 3), lambda x: torch.kron(x, x[0])),
        ("cross", (4, 3), lambda x: torch.linalg.cross(x, x + 1)), ("multi_dot", SQUARE, lambda x: torch.linalg.multi_dot([x, x, x])),
        ("bilinear", MATRIX, lambda x: F.bilinear(x, x, share(torch.empty(3, 5, 5, dtype=x.dtype)), x[0, :3])),
        ("attention", (1, 2, 5, 4), attended(scale=0.3)),
        ("hidden_row_bool", (1, 2, 5, 4), lambda x: attended(attn_mask=hidden_row("bool"))(x)),
        ("hidden_row_float", (1, 2, 5, 4), lambda x: attended(attn_mask=hidden_row("float").to(x.dtype))(x)),
        ("grouped_heads", (1, 4, 5, 4), lambda x: F.scaled_dot_product_attention(x, x[:, :2], x[:, 2:], enable_gqa=True)),
    ],
    "loss": [
        ("smooth", SQUARE, lambda x: F.cross_entropy(x, labels(), label_smoothing=0.1)),
        ("weighted", SQUARE, lambda x: F.cross_entropy(x, labels(), weights(x))),
        ("all", SQUARE, lambda x: F.cross_entropy(x, labels(), weights(x), label_smoothing=0.1, ignore_index=1)),
        ("each", (2, 4, 2), lambda x: F.cross_entropy(x, labels().view(2, 2), label_smoothing=0.2, reduction="none")),
        ("one", (4,), lambda x: F.cross_entropy(x, torch.tensor(2))),
        ("probabilities", SQUARE, lambda x: F.cross_entropy(x, share(x).softmax(1), weights(x), label_smoothing=0.1)),
        ("nll", SQUARE, lambda x: F.nll_loss(x.log_softmax(1), labels(), weights(x), ignore_index=3)),
        ("nll_sum", SQUARE, lambda x: F.nll_loss(x.log_softmax(1), labels(), reduction="sum")),
        ("bce", MATRIX, lambda x: F.binary_cross_entropy(x.sigmoid(), share(x), share(x) + 1)),
        ("bce_positive", SQUARE, lambda x: F.binary_cross_entropy_with_logits(x, share(x), pos_weight=weights(x))),
        ("bce_weighted", SQUARE, lambda x: F.binary_cross_entropy_with_logits(x, share(x), share(x), reduction="none")),
        ("kl", SQUARE, lambda x: F.kl_div(x.log_softmax(1), share(x).softmax(1), reduction="batchmean")),
        ("kl_log", SQUARE, lambda x: F.kl_div(x.log_softmax(1), share(x).log_softmax(1), reduction="sum", log_target=True)),
        ("mse_each", SQUARE, lambda x: F.mse_loss(x, share(x), reduction="none")), ("l1_sum", SQUARE, lambda x: F.l1_loss(x, share(x), reduction="sum")),
        ("smooth_l1", SQUARE, lambda x: F.smooth_l1_loss(x, share(x), beta=0.5)), ("huber", SQUARE, lambda x: F.huber_loss(x, share(x), reduction="none")),
        ("poisson", SQUARE, lambda x: F.poisson_nll_loss(x, share(x))), ("soft_margin", (4,), lambda x: F.soft_margin_loss(x, signs(x))),
        ("multi_margin", SQUARE, lambda x: F.multi_margin_loss(x, labels(), p=2, weight=weights(x))),
        ("ranking", (2, 4), lambda x: F.margin_ranking_loss(x[0], x[1], signs(x), 0.2)),
        ("hinge", (4,), lambda x: F.hinge_embedding_loss(x, signs(x))),
        ("cosine", SQUARE, lambda x: F.cosine_embedding_loss(x, share(x) - 0.5, signs(x))),
        ("triplet", SQUARE, lambda x: F.triplet_margin_loss(x, share(x), share(x).flip(0), swap=True)),
    ],
}


class Last(nn.Module):
    """The outputs of a recurrent layer."""
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


class Steps(nn.Module):
    """A cell, step by step."""
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state, outputs = None, []
        for step in x:
            state = self.cell(step) if state is None else self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs)


class Teacher(nn.Module):
    """A product with what the same layer says when it does not learn."""
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    @torch.no_grad()
    def teach(self, x):
        first, second = self.layer(x).chunk(2, -1)
        return first.sigmoid(), second.tanh()

    def forward(self, x):
        return self.layer(x) * torch.cat(self.teach(x), -1)


class Switched(nn.Module):
    """Gradients on, off, on and off again."""
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        y = self.layer(x)
        with torch.no_grad():
            a = y * 2
            with torch.enable_grad():
                b = self.layer(a)
            c = a + b
        return y + c * y


class Averaged(nn.Module):
    """Less an average of what came before, which is not learned."""
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        y = self.layer(x)
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(y.mean(0), alpha=0.1)
        return y - self.mean


MODULES = {
    "region": [
        ("teacher", (3, 4), Teacher), ("switched", (3, 4), Switched), ("averaged", (3, 4), Averaged),
        ("spectral_norm", (3, 4), lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))),
        ("spectral_norm_of_windows", (2, 2, 5), lambda: nn.utils.parametrizations.spectral_norm(nn.Conv1d(2, 3, 3))),
    ],
    "module": [
        ("rnn", (3, 2, 4), lambda: Last(nn.RNN(4, 3))), ("rnn_relu", (2, 3, 4), lambda: Last(nn.RNN(4, 3, 2, "relu", bidirectional=True, batch_first=True))),
        ("lstm_cell", (3, 2, 4), lambda: Steps(nn.LSTMCell(4, 3))), ("gru_cell", (3, 2, 4), lambda: Steps(nn.GRUCell(4, 3))),
        ("rnn_cell", (3, 2, 4), lambda: Steps(nn.RNNCell(4, 3))), ("rnn_cell_relu", (3, 4), lambda: Steps(nn.RNNCell(4, 3, nonlinearity="relu"))),
        ("instance_norm", (2, 3, 4), lambda: nn.InstanceNorm1d(3, affine=True)),
        ("instance_norm_tracked", (2, 3, 4), lambda: nn.InstanceNorm1d(3, track_running_stats=True)),
        ("weight_norm", (3, 4), lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))),
        ("response_norm", (1, 4, 3), lambda: nn.LocalResponseNorm(2)), ("unbatched", (2, 4, 4), lambda: nn.Conv2d(2, 3, 3)),
        ("same_3d", (1, 2, 3, 3, 3), lambda: nn.Conv3d(2, 2, 3, padding="same")), ("transposed_3d", (1, 2, 2, 2, 2), lambda: nn.ConvTranspose3d(2, 1, 2, 2)),
        ("circular", (1, 2, 4, 4), lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")),
    ],
}


class Family(nn.Module):
    """Every function or module on its own part of the input."""
    def __init__(self, members):
        super().__init__()
        self.members = [(name, shape, make if is_function else None) for name, shape, make, is_function in members]
        self.w = nn.ParameterDict({name: nn.Parameter(torch.rand(shape) + 0.5) for name, shape, _, _ in members})
        self.m = nn.ModuleDict({name: make() for name, _, make, is_function in members if not is_function})

    def forward(self, x):
        results = []
        for name, shape, function in self.members:
            part = x[:torch.Size(shape).numel()].view(shape) * self.w[name]
            results.append((function or self.m[name])(part).reshape(-1))
        return torch.cat(results)


def trained(model, x, target):
    """Losses of two steps, first gradients."""
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE)
    losses, gradients = [], {}
    for _ in range(2):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), target)
        loss.backward()
        gradients = gradients or {f"grad.{name}": p.grad.clone() for name, p in model.named_parameters()}
        losses.append(loss.detach())
        optimizer.step()
    return {"loss": torch.stack(losses), **gradients}


def strip(graph):
    """Takes from nodes what says where they were made."""
    for node in graph["nodes"]:
        node["metadata"] = {}
        for argument in node["inputs"]:
            if "as_graph" in argument["arg"]:
                strip(argument["arg"]["as_graph"]["graph"])


def bare(path):
    """Rewrites an archive without example inputs and without what says where it was made."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(entries.items()):
            if "sample_inputs" in name:
                continue
            if name.endswith("models/model.json"):
                program = json.loads(content)
                strip(program["graph_module"]["graph"])
                program["graph_module"]["module_call_graph"] = []
                program["guards_code"] = []
                content = json.dumps(program, separators=(",", ":")).encode()
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


def export_onnx(model, x, path):
    """Writes an ONNX file without what says where it was made."""
    file = torch.onnx.export(model, (x,), dynamo=True, verbose=False).model_proto
    for part in [file, file.graph, *file.graph.node, *file.graph.initializer, *file.graph.input, *file.graph.output]:
        del part.metadata_props[:]
    for node in file.graph.node:
        node.doc_string = node.name = ""
    del file.graph.value_info[:]
    file.doc_string = file.graph.doc_string = ""
    onnx.save(file, path)


def make(family, members):
    torch.manual_seed(0)
    model, x = Family(members).train(), torch.randn(INPUT)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    program = torch.export.export(model, (x,), strict=False)
    model.load_state_dict(start)
    torch.export.save(program, HERE / f"{family}.pt2")
    bare(HERE / f"{family}.pt2")
    if family in ONNX:
        export_onnx(model, x, HERE / f"{family}.onnx")
        model.load_state_dict(start)
    target = torch.randn_like(model(x))
    model.load_state_dict(start)
    single = trained(model, x, target)
    model.load_state_dict(start)
    double = trained(model.double(), x.double(), target.double())
    tensors = {"input.x": x, "target": target, **double}
    save_file({name: value.contiguous() for name, value in tensors.items()}, HERE / f"{family}.safetensors")
    errors = {name: (single[name].double() - double[name]).abs().max().item() for name in double}
    (HERE / f"{family}.f32.json").write_text(json.dumps(errors, indent=1) + "\n")


def main():
    wanted = sys.argv[1:] or [*FAMILIES, *MODULES]
    for family in wanted:
        members, is_function = (FAMILIES[family], True) if family in FAMILIES else (MODULES[family], False)
        make(family, [(*member, is_function) for member in members])


if __name__ == "__main__":
    main()
