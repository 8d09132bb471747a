"""The five heads. One module each: input scaling, encoder, pool, classifier; logits out.

Shape legend: B videos, T tokens (padded), D width of a channel.

    name            reads             encoder                           width               depth
    transformer     joined streams    TransformerEncoder                input, or a number  1
    fusion          every stream      projections + TransformerEncoder  256                 2
    mlp             joined streams    token-wise Linear-ReLU-Dropout    256                 1
    attention-pool  joined streams    none                              -                   -
    linear          joined streams    none; one Linear, no classifier   -                   -
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cache.errors import InputError
from heads.data.tokens import TokenBatch
from heads.models.dropout import Dropout
from heads.models.encoders import AttentionEncoder, StreamFusion, TokenMLP, largest_head_count
from heads.models.pooling import POOLS, Pool, TokenPool
from heads.models.scaling import SCALINGS, InputScaling, Scaling

Architecture = Literal["transformer", "fusion", "mlp", "linear", "attention-pool"]
ARCHITECTURES: tuple[Architecture, ...] = ("transformer", "fusion", "mlp", "linear", "attention-pool")
ATTENDING: frozenset[Architecture] = frozenset({"transformer", "fusion"})
DEFAULT_DEPTH: dict[Architecture, int] = {"transformer": 1, "fusion": 2, "mlp": 1}
DEFAULT_WIDTH: dict[Architecture, int] = {"fusion": 256, "mlp": 256}

TORCH_FEEDFORWARD = 2048
"""nn.TransformerEncoderLayer's own default, which the earlier models used."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which head. None means the architecture's default (table above).

    pool: mean, attention, max, or cls (transformer and fusion only); None is attention for attention-pool,
    else mean. depth: encoder layers, 1 to 48 (0 to 48 for mlp). width: 1 to 16,384; None is the input width
    for transformer. n_heads: attention heads, must divide the width; None is its largest divisor up to 16.
    feedforward: hidden width of attention layers; None is 2,048 for transformer and 4 widths for fusion.
    dropout: in the encoder, [0, 1); where there is none, on the pooled vector. The classifier's own are 0.5
    and 0.4. scaling: of the inputs, none, l2 or standard (fitted on training videos). Raises InputError for
    values out of range and for options that the architecture does not have.
    """

    architecture: Architecture = "attention-pool"
    pool: Pool | None = None
    depth: int | None = None
    width: int | None = None
    n_heads: int | None = None
    feedforward: int | None = None
    dropout: float = 0.1
    scaling: Scaling = "standard"

    def __post_init__(self) -> None:
        name = self.architecture
        _one_of("model", name, ARCHITECTURES)
        _one_of("scaling", self.scaling, SCALINGS)
        if self.pool is not None:
            _one_of("pool", self.pool, POOLS)
        if self.pool == "cls" and name not in ATTENDING:
            raise InputError(
                f"pool cls needs attention between tokens; {name} has none. Use mean, attention or max"
            )
        if name == "attention-pool" and self.pool not in (None, "attention"):
            raise InputError(
                f"attention-pool pools by attention, not {self.pool}; use --model mlp for other pools"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout must be in [0, 1), got {self.dropout}")
        for option in ("depth", "width"):
            if getattr(self, option) is not None and name in ("linear", "attention-pool"):
                raise InputError(f"{name} has no {option}; leave it out or choose another model")
        for option in ("n_heads", "feedforward"):
            if getattr(self, option) is not None and name not in ATTENDING:
                raise InputError(f"{name} has no {option}; leave it out or choose transformer or fusion")
        lowest_depth = 0 if name == "mlp" else 1
        if self.depth is not None and not lowest_depth <= self.depth <= 48:
            raise InputError(f"depth must be between {lowest_depth} and 48, got {self.depth}")
        for option, most in (("width", 16_384), ("n_heads", 1024), ("feedforward", 65_536)):
            value = getattr(self, option)
            if value is not None and not 1 <= value <= most:
                raise InputError(f"{option} must be between 1 and {most:,}, got {value}")

    @property
    def separate_streams(self) -> bool:
        """True when the model reads one channel a stream, False when it reads streams joined on one grid."""
        return self.architecture == "fusion"

    @property
    def pooling(self) -> Pool:
        """The pool after defaults."""
        return self.pool or ("attention" if self.architecture == "attention-pool" else "mean")


def _one_of(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{option} must be one of {', '.join(allowed)}; got '{value}'")


def only_multiplies_tokens(config: ModelConfig) -> bool:
    """True when tokens enter nothing but matrix products, which read them in bf16 under autocast anyway: then
    they can be stored in bf16. A transformer of the input's width adds to them, a max pool picks them.
    """
    if config.architecture == "transformer":
        return config.width is not None
    projected = config.architecture == "fusion" or (config.architecture == "mlp" and config.depth != 0)
    return projected or config.pooling != "max"


class Classifier(nn.Sequential):
    """Linear 256, ReLU, BatchNorm, Dropout 0.5, Linear 128, ReLU, BatchNorm, Dropout 0.4, Linear 1."""

    def __init__(self, dim: int) -> None:
        super().__init__(
            nn.Linear(dim, 256),
            nn.ReLU(),
            nn.BatchNorm1d(256),
            Dropout(0.5),
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.BatchNorm1d(128),
            Dropout(0.4),
            nn.Linear(128, 1),
        )


class HeadModel(nn.Module):
    """Tokens to one logit a video. Built for given stream widths; what stands in padding never changes a
    logit.

    stream_dims: width of each stream, in the order of the streams' sorted names.
    """

    def __init__(self, config: ModelConfig, stream_dims: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.stream_dims = stream_dims
        channels = [(dim,) for dim in stream_dims] if config.separate_streams else [stream_dims]
        self.scalings = nn.ModuleList(InputScaling(config.scaling, dims) for dims in channels)
        self.fusion: StreamFusion | None = None
        self.project: nn.Linear | None = None
        self.attention: AttentionEncoder | None = None
        self.mlp: TokenMLP | None = None
        dim = sum(stream_dims)
        width = config.width or DEFAULT_WIDTH.get(config.architecture, dim)
        depth = DEFAULT_DEPTH.get(config.architecture, 0) if config.depth is None else config.depth
        if config.architecture == "fusion":
            self.fusion = StreamFusion(stream_dims, width=width)
            dim = width
        elif config.architecture == "transformer" and config.width is not None:
            self.project = nn.Linear(dim, width)
            dim = width
        if config.architecture in ATTENDING:
            self.attention = _attention_encoder(config, dim, depth)
        elif config.architecture == "mlp":
            self.mlp = TokenMLP(dim, width=width, depth=depth, dropout=config.dropout)
            dim = self.mlp.dim
        self.pool = TokenPool(config.pooling, dim)
        self.dropout = Dropout(0.0 if self.attention or (self.mlp and depth) else config.dropout)
        self.classifier: nn.Module = nn.Linear(dim, 1) if config.architecture == "linear" else Classifier(dim)

    def encode(
        self, values: Sequence[Tensor], masks: Sequence[Tensor], times: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Tokens as the pool sees them: ([B, T, width], bool [B, T])."""
        return self._encode_scaled(self._scaled(values, masks), masks, times)

    def _scaled(self, values: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        return [s(x, m) for s, x, m in zip(self.scalings, values, masks, strict=True)]

    def _encode_scaled(
        self, scaled: Sequence[Tensor], masks: Sequence[Tensor], times: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        if self.fusion is not None:
            x_BTD, mask_BT = self.fusion(list(scaled), list(masks), list(times))
        else:
            x_BTD, mask_BT = scaled[0], masks[0]
        if self.project is not None:
            x_BTD = self.project(x_BTD)
        if self.mlp is not None:
            x_BTD = self.mlp(x_BTD)
        if self.attention is not None:
            x_BTD, mask_BT = self.attention(x_BTD, mask_BT)
        return x_BTD, mask_BT

    def forward(self, values: Sequence[Tensor], masks: Sequence[Tensor], times: Sequence[Tensor]) -> Tensor:
        """Logits, float32 [B].

        One entry a channel: values float32 [B, T, D], masks bool [B, T] (True = real), times float32 [B, T]
        seconds.
        """
        return self.forward_scaled(self._scaled(values, masks), masks, times)

    def forward_scaled(
        self, scaled: Sequence[Tensor], masks: Sequence[Tensor], times: Sequence[Tensor]
    ) -> Tensor:
        """`forward` for tokens that have been through this head's input scaling (zero in padding)."""
        x_BTD, mask_BT = self._encode_scaled(scaled, masks, times)
        pooled_BD = self.dropout(self.pool(x_BTD, mask_BT))
        with torch.autocast(pooled_BD.device.type, enabled=False):
            logits: Tensor = self.classifier(pooled_BD.float()).squeeze(-1)
        return logits

    def logits(self, channels: Sequence[TokenBatch]) -> Tensor:
        """`forward` on token batches, one a channel."""
        logits: Tensor = self(
            [c.values for c in channels], [c.mask for c in channels], [c.times for c in channels]
        )
        return logits

    def input_scalings(self) -> list[InputScaling]:
        """The scaling of each channel, for fitting."""
        return [scaling for scaling in self.scalings if isinstance(scaling, InputScaling)]

    @property
    def n_parameters(self) -> int:
        """Trained numbers."""
        return sum(p.numel() for p in self.parameters())


def count_parameters(config: ModelConfig, stream_dims: tuple[int, ...]) -> int:
    """`n_parameters` of a head that is not made: shapes alone, nothing is allocated."""
    with torch.device("meta"):
        return HeadModel(config, stream_dims).n_parameters


def _attention_encoder(config: ModelConfig, width: int, depth: int) -> AttentionEncoder:
    n_heads = config.n_heads or largest_head_count(width)
    if width % n_heads:
        raise InputError(f"{n_heads} attention heads do not divide the width {width}; leave n_heads out")
    feedforward = config.feedforward or (
        TORCH_FEEDFORWARD if config.architecture == "transformer" else 4 * width
    )
    return AttentionEncoder(
        width,
        depth=depth,
        n_heads=n_heads,
        feedforward=feedforward,
        dropout=config.dropout,
        cls=config.pooling == "cls",
    )
