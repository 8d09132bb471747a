"""SlowFast for CUDA: every convolution as a 2-D one over a view of the same memory, bias, shortcut and ReLU inside it.

cuDNN has fast kernels for 2-D convolutions in channels-last bf16 and slow ones for most of SlowFast's 3-D shapes (on an H200 the
fast pathway's stem alone took half of a forward pass). Frames stay [B, T, H, W, C] in memory. A (1, k, k) kernel is a 2-D
convolution over [B*T, H, W], a (k, 1, 1) kernel one over [B, T, H*W]: no frame is moved. The fast stem, the one true 3-D
kernel with 3 channels in and 8 out, computes STEM_FRAMES frames at once: their channels stand side by side, the kernel
becomes a band of the wider one, and the matrices are of a size that tensor cores are made for.

The result differs from the folded model's by rounding only: a sum is rounded once where it was rounded three times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

STEM_FRAMES = 8
"""Frames of the fast pathway that its stem computes in one product: 8 frames of 8 channels fill a tile of 64."""
FAST_BESIDE = (1, 1, 1, 1)
"""Frames of the fast pathway that its stages compute side by side. (8, 4, 2, 1) gives all of them the widths of the slow

pathway's first stage, 64 and 256, instead of 8 to 64 and 32 to 256: whether it is faster is open (docs/gpu.md).
"""
CHANNEL_MULTIPLE = 8
"""Channels of bf16 that a tensor core's load wants: the stem's are padded with zeros up to it."""

FUSED_WHEN_COMPILED = True
"""cuDNN's convolutions are kept as they are under torch.compile too. False: bias, shortcut and ReLU are left to its compiler,

whose kernels read and write a map once more for them; `benchmarks/gpu_day.py` measures both.
"""


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution over planes. weight: [C_out, C_in, k, k] channels-last. over: which axes of a window the planes have."""

    weight: torch.Tensor
    bias: torch.Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    over: str
    """`space`: [B*T, H, W]. `time`: [B, T, H*W]."""

    def __call__(
        self, x_BTHWC: torch.Tensor, *, plus: torch.Tensor | None = None, relu: bool = True
    ) -> torch.Tensor:
        """relu(conv(x) + bias + plus), [B, T', H', W', C_out]."""
        batch, time, height, width, channels = x_BTHWC.shape
        rows = (batch * time, height, width) if self.over == "space" else (batch, time, height * width)
        planes = x_BTHWC.reshape(*rows, channels).permute(0, 3, 1, 2)
        done = _convolve(planes, self, _like_planes(plus, self.over), relu).permute(0, 2, 3, 1)
        if self.over == "space":
            return done.reshape(batch, time, *done.shape[1:])
        return done.reshape(batch, done.shape[1], height, width, -1)


def _like_planes(x_BTHWC: torch.Tensor | None, over: str) -> torch.Tensor | None:
    if x_BTHWC is None:
        return None
    batch, time, height, width, channels = x_BTHWC.shape
    rows = (batch * time, height, width) if over == "space" else (batch, time, height * width)
    return x_BTHWC.reshape(*rows, channels).permute(0, 3, 1, 2)


def _convolve(planes: torch.Tensor, conv: Conv, plus: torch.Tensor | None, relu: bool) -> torch.Tensor:
    compiling = torch.compiler.is_compiling()
    if relu and planes.is_cuda and (FUSED_WHEN_COMPILED or not compiling):
        fused = _opaque if compiling else _fused
        return fused(planes, conv.weight, plus, conv.bias, conv.stride, conv.padding)
    done = F.conv2d(planes, conv.weight, conv.bias, conv.stride, conv.padding)
    if plus is not None:
        done = done + plus
    return done.relu_() if relu else done


def _fused(
    planes: torch.Tensor,
    weight: torch.Tensor,
    plus: torch.Tensor | None,
    bias: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
) -> torch.Tensor:
    if not planes.is_cuda:
        done = F.conv2d(planes, weight, bias, tuple(stride), tuple(padding))
        return (done if plus is None else done + plus).relu_()
    if plus is None:
        return torch.cudnn_convolution_relu(planes, weight, bias, stride, padding, (1, 1), 1)
    return torch.cudnn_convolution_add_relu(planes, weight, plus, 1.0, bias, stride, padding, (1, 1), 1)


_opaque = torch.library.custom_op(
    "onepass::convolve_relu",
    _fused,
    mutates_args=(),
    schema="(Tensor planes, Tensor weight, Tensor? plus, Tensor bias, int[] stride, int[] padding) -> Tensor",
)
"""torch says nothing of the shapes that cuDNN's fused convolutions give, which its compiler must know."""


@_opaque.register_fake
def _(
    planes: torch.Tensor,
    weight: torch.Tensor,
    plus: torch.Tensor | None,
    bias: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
) -> torch.Tensor:
    high, wide = (
        (planes.shape[2 + axis] + 2 * padding[axis] - weight.shape[2 + axis]) // stride[axis] + 1
        for axis in (0, 1)
    )
    shape = (planes.shape[0], weight.shape[0], high, wide)
    return torch.empty(shape, dtype=planes.dtype, device=planes.device, memory_format=torch.channels_last)


Pathway = Callable[[torch.Tensor], torch.Tensor]


class PlanesSlowFast:
    """The first five blocks of a folded slowfast_r50 or slowfast_r101 (`slowfast.fold`), on their device in their precision.

    Callable: the fast pathway's normalised frames [B, T, H, W, 3] and the slow pathway's [B, T / alpha, H, W, 3] to
    both pathways' maps, slow first, each [B, T', H', W', C].
    """

    def __init__(self, blocks: Any) -> None:
        stem = blocks[0]
        slow_stem, fast_stem = stem.multipathway_blocks
        self._slow_stem, self._fast_stem = _plane_stem(slow_stem), _banded_stem(fast_stem)
        self._beside = FAST_BESIDE
        self._fusions = [
            _fusion(block, f) for block, f in zip(blocks, (FAST_BESIDE[0], *FAST_BESIDE), strict=True)
        ]
        self._stages = [
            [
                [_res_block(part, f) for part in pathway.res_blocks]
                for pathway, f in zip(block.multipathway_blocks, (1, beside), strict=True)
            ]
            for block, beside in zip(blocks[1:], FAST_BESIDE, strict=True)
        ]

    def __call__(self, slow: torch.Tensor, fast: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Raises nothing of its own; sizes are those of the published model."""
        beside = self._beside[0]
        slow, fast = self._slow_stem(slow), _apart(self._fast_stem(fast), STEM_FRAMES // beside)
        slow = self._joined(0, slow, fast)
        for index, (slow_blocks, fast_blocks) in enumerate(self._stages, start=1):
            for block in slow_blocks:
                slow = block(slow)
            was, beside = beside, self._beside[index - 1]
            fast = _apart(fast, was // beside)
            for block in fast_blocks:
                fast = block(fast)
            slow = self._joined(index, slow, fast)
        return slow, _apart(fast, beside)

    def _joined(self, index: int, slow: torch.Tensor, fast: torch.Tensor) -> torch.Tensor:
        fusion = self._fusions[index]
        if fusion is None:
            return slow
        fused = fusion(fast)
        return torch.cat([slow, _apart(fused, slow.shape[1] // fused.shape[1])], dim=-1)


def _apart(x_BTHWC: torch.Tensor, parts: int) -> torch.Tensor:
    """Frames that stand side by side in `parts` runs, one run after the other: [B, T * parts, H, W, C / parts]."""
    if parts == 1:
        return x_BTHWC
    batch, time, height, width, channels = x_BTHWC.shape
    runs = x_BTHWC.view(batch, time, height, width, parts, channels // parts)
    return runs.permute(0, 1, 4, 2, 3, 5).reshape(batch, time * parts, height, width, channels // parts)


def _fusion(block: Any, beside: int) -> Conv | None:
    fusion = block.multipathway_fusion
    conv = getattr(fusion, "conv_fast_to_slow", None)
    return None if conv is None else plane_conv(conv, beside)


def _res_block(block: Any, beside: int) -> Pathway:
    """A bottleneck with its shortcut; the shortcut's bias goes into the last convolution, so that only one is added."""
    branch = block.branch2
    first, second, third = (
        plane_conv(conv, beside) for conv in (branch.conv_a, branch.conv_b, branch.conv_c)
    )
    if block.branch1_conv is None:
        return lambda x: third(second(first(x)), plus=x)
    aside = plane_conv(block.branch1_conv, beside)
    third = Conv(third.weight, third.bias + aside.bias, third.stride, third.padding, third.over)
    bare = Conv(aside.weight, torch.zeros_like(aside.bias), aside.stride, aside.padding, aside.over)
    return lambda x: third(second(first(x)), plus=_unbiased(bare, x))


def _unbiased(conv: Conv, x_BTHWC: torch.Tensor) -> torch.Tensor:
    batch, time, height, width, channels = x_BTHWC.shape
    planes = x_BTHWC.reshape(batch * time, height, width, channels).permute(0, 3, 1, 2)
    done = F.conv2d(planes, conv.weight, None, conv.stride, conv.padding).permute(0, 2, 3, 1)
    return done.reshape(batch, time, *done.shape[1:])


def plane_conv(conv: nn.Conv3d, beside: int = 1) -> Conv:
    """A 3-D convolution whose kernel extends over time or over space, not both, for maps of `beside` frames side by side.

    Raises AssertionError for another.
    """
    k_time, k_high, k_wide = (int(k) for k in conv.kernel_size)
    s_time, s_high, s_wide = (int(s) for s in conv.stride)
    p_time, p_high, p_wide = (int(p) for p in conv.padding)
    assert conv.groups == 1 and all(int(d) == 1 for d in conv.dilation), f"not a plain convolution: {conv}"
    weight, g_stride, g_padding = _band(conv.weight.detach(), s_time, p_time, beside)
    if k_time == 1 and s_time == 1 and p_time == 0:
        weight = weight[:, :, 0]
        over, stride, padding = "space", (s_high, s_wide), (p_high, p_wide)
    else:
        assert (k_high, k_wide, s_high, s_wide, p_high, p_wide) == (1, 1, 1, 1, 0, 0), (
            f"over time and space: {conv}"
        )
        weight = weight[:, :, :, :, 0]
        over, stride, padding = "time", (g_stride, 1), (g_padding, 0)
    bias = conv.bias if conv.bias is not None else conv.weight.new_zeros(conv.out_channels)
    bias = bias.detach().repeat(weight.shape[0] // conv.out_channels)
    return Conv(weight.contiguous(memory_format=torch.channels_last), bias, stride, padding, over)


def _band(weight: torch.Tensor, stride: int, padding: int, beside: int) -> tuple[torch.Tensor, int, int]:
    """A kernel over single frames, [C_out, C_in, k, h, w], as one over groups of `beside` frames, with its stride and padding.

    A group gives as many frames side by side as begin in it, at least one.
    """
    assert 2 * padding == weight.shape[2] - 1, f"not centred: {weight.shape[2]} frames, {padding} before"
    n_out = max(1, beside // stride)
    g_stride, g_padding = n_out * stride // beside, -(-padding // beside)
    assert n_out * stride == g_stride * beside, f"{beside} frames side by side, every {stride}th wanted"
    c_out, c_in, k_time, *plane = weight.shape
    wide = weight.new_zeros(n_out, c_out, beside, c_in, 2 * g_padding + 1, *plane)
    for out in range(n_out):
        for tap in range(k_time):
            group, frame = divmod(out * stride + tap - padding, beside)
            wide[out, :, frame, :, group + g_padding] = weight[:, :, tap]
    return wide.reshape(n_out * c_out, beside * c_in, 2 * g_padding + 1, *plane), g_stride, g_padding


def _plane_stem(stem: Any) -> Pathway:
    """The slow pathway's stem: 7x7 over each frame, max pool. Channels are padded with zeros."""
    conv, pool = plane_conv(stem.conv), _plane_pool(stem.pool)
    more = -conv.weight.shape[1] % CHANNEL_MULTIPLE
    weight = F.pad(conv.weight, (0, 0, 0, 0, 0, more)).contiguous(memory_format=torch.channels_last)
    padded = Conv(weight, conv.bias, conv.stride, conv.padding, conv.over)
    return lambda x: pool(padded(F.pad(x, (0, more))))


def _banded_stem(stem: Any) -> Pathway:
    """The fast pathway's stem: 5x7x7 over time and space, then its max pool: STEM_FRAMES frames of output side by side."""
    conv, pool = stem.conv, _plane_pool(stem.pool)
    k_time, pad_time = int(conv.kernel_size[0]), int(conv.padding[0])
    assert int(conv.stride[0]) == 1 and 2 * pad_time == k_time - 1, f"changes the number of frames: {conv}"
    c_out, c_in = conv.out_channels, conv.in_channels
    n_seen = STEM_FRAMES + k_time - 1
    more = -(n_seen * c_in) % CHANNEL_MULTIPLE
    band = conv.weight.new_zeros(STEM_FRAMES, c_out, n_seen, c_in, *conv.weight.shape[3:])
    for frame in range(STEM_FRAMES):
        band[frame, :, frame : frame + k_time] = conv.weight.detach().transpose(1, 2)
    weight = F.pad(band.reshape(STEM_FRAMES * c_out, n_seen * c_in, *band.shape[4:]), (0, 0, 0, 0, 0, more))
    _, s_high, s_wide = (int(s) for s in conv.stride)
    _, p_high, p_wide = (int(p) for p in conv.padding)
    weight = weight.contiguous(memory_format=torch.channels_last)
    bias = conv.bias.detach().repeat(STEM_FRAMES)
    wide = Conv(weight, bias, (s_high, s_wide), (p_high, p_wide), "space")

    def run(x_BTHWC: torch.Tensor) -> torch.Tensor:
        batch, time, height, width, channels = x_BTHWC.shape
        groups = time // STEM_FRAMES
        assert groups * STEM_FRAMES == time, f"{time} frames are not a multiple of {STEM_FRAMES}"
        padded = F.pad(x_BTHWC, (0, 0, 0, 0, 0, 0, pad_time, pad_time))
        seen = padded.unfold(1, n_seen, STEM_FRAMES).transpose(-1, -2)  # [B, groups, H, W, n_seen, C]
        side_by_side = x_BTHWC.new_zeros(batch, groups, height, width, n_seen * channels + more)
        side_by_side[..., : n_seen * channels].view(seen.shape).copy_(seen)
        return pool(wide(side_by_side))

    return run


def _plane_pool(pool: Any) -> Pathway:
    """A (1, k, k) max pool."""

    def plane(values: Any) -> tuple[int, int]:
        _, high, wide = (int(v) for v in values)
        return high, wide

    size, stride, padding = plane(pool.kernel_size), plane(pool.stride), plane(pool.padding)

    def run(x_BTHWC: torch.Tensor) -> torch.Tensor:
        batch, time, height, width, channels = x_BTHWC.shape
        planes = x_BTHWC.reshape(batch * time, height, width, channels).permute(0, 3, 1, 2)
        done = F.max_pool2d(planes, size, stride, padding).permute(0, 2, 3, 1)
        return done.reshape(batch, time, *done.shape[1:])

    return run
