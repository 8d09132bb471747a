"""The heads. One module each: input scaling, change, encoder, pool, classifier; logits out.

Shape legend: B videos, T tokens (padded), D width of a channel.

    name            reads             encoder                           width               depth
    transformer     joined streams    TransformerEncoder                input, or a number  1
    fusion          every stream      projections + TransformerEncoder  256                 2
    mlp             joined streams    token-wise Linear-ReLU-Dropout    256                 1
    conv            joined streams    1-D convolutions over 3 tokens    256                 2
    attention-pool  joined streams    none                              -                   -
    linear          joined streams    none; one Linear, no classifier   -                   -
    logistic        every stream      none; statistics, one Linear      -                   -

Streams are joined on one grid, read as tokens of one sequence (fusion), or read by one head each whose logits are
averaged (join late, `heads.models.ensemble`). Statistics pools (std, range, mean-std) act on the inputs: what an
mlp does, it then does to them.
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
from heads.models.encoders import AttentionEncoder, StreamFusion, TemporalConv, TokenMLP, largest_head_count
from heads.models.pooling import POOLS, Pool, TokenPool
from heads.models.scaling import SCALINGS, InputScaling, Scaling
from heads.models.statistics import DELTAS, STATISTICS, Delta, Standardise, statistic_width, with_changes

Architecture = Literal["transformer", "fusion", "mlp", "conv", "linear", "attention-pool", "logistic"]
ARCHITECTURES: tuple[Architecture, ...] = (
    "transformer",
    "fusion",
    "mlp",
    "conv",
    "linear",
    "attention-pool",
    "logistic",
)
Join = Literal["grid", "tokens", "late"]
JOINS: tuple[Join, ...] = ("grid", "tokens", "late")
ATTENDING: frozenset[Architecture] = frozenset({"transformer", "fusion"})
DEFAULT_DEPTH: dict[Architecture, int] = {"transformer": 1, "fusion": 2, "mlp": 1, "conv": 2}
DEFAULT_WIDTH: dict[Architecture, int] = {"fusion": 256, "mlp": 256, "conv": 256}

TORCH_FEEDFORWARD = 2048
"""nn.TransformerEncoderLayer's own default, which the earlier models used."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which head. None means the architecture's default (table above).

    architecture: which head.
    pool: mean, attention, max, cls (transformer and fusion only), or std, range and mean-std of the inputs (mlp,
    linear and logistic only); None is attention for attention-pool, mean-std for logistic, else mean. delta:
    |x_t - x_(t-1)| of the scaled inputs, beside them or instead of them. join: streams on one grid, as tokens of
    one sequence (fusion only), or late, one head a stream and their logits averaged; None is tokens for fusion,
    late for logistic, else grid. depth: encoder layers, 1 to 48 (0 to 48 for mlp). width: 1 to 16,384; None is the input width
    for transformer. n_heads: attention heads, must divide the width; None is its largest divisor up to 16.
    feedforward: hidden width of attention layers; None is 2,048 for transformer and 4 widths for fusion.
    dropout: in the encoder, [0, 1); where there is none, on the pooled vector. The classifier's own are 0.5
    and 0.4. scaling: of the inputs, none, l2 or standard (fitted on training videos); statistics of the inputs are
    standardised themselves, which makes none and standard alike. absent: videos may lack a stream (set where the
    cache says so): late, the logits of the streams that are there are averaged; else a learned stand-in is read in
    place of what is not there. stream_dropout: [0, 1), where videos may lack a stream: how often training takes one
    of a joined video's streams away, so that the stand-ins are learnt. Raises InputError for
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
    delta: Delta = "off"
    join: Join | None = None
    absent: bool = False
    stream_dropout: float = 0.1

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
        if self.pool in STATISTICS and name not in ("mlp", "linear", "logistic"):
            raise InputError(
                f"pool {self.pool} is of the inputs; {name} has none, use mlp, linear or logistic"
            )
        if name == "logistic" and self.pool == "attention":
            raise InputError("logistic has no attention; use mean, max, std, range or mean-std")
        if name == "logistic" and self.scaling == "l2":
            raise InputError("logistic standardises its statistics itself; leave scaling out")
        _one_of("delta", self.delta, DELTAS)
        if self.join is not None:
            _one_of("join", self.join, JOINS)
            if (self.join == "tokens") != (name == "fusion"):
                others = "tokens" if name == "fusion" else "grid or late"
                raise InputError(f"{name} cannot join by {self.join}; use {others}")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout must be in [0, 1), got {self.dropout}")
        if not 0.0 <= self.stream_dropout < 1.0:
            raise InputError(f"stream_dropout must be in [0, 1), got {self.stream_dropout}")
        for option in ("depth", "width"):
            if getattr(self, option) is not None and name in ("linear", "attention-pool", "logistic"):
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
        return self.joining != "grid"

    @property
    def joining(self) -> Join:
        """How streams come together, after defaults."""
        defaults: dict[str, Join] = {"fusion": "tokens", "logistic": "late"}
        return self.join or defaults.get(self.architecture, "grid")

    @property
    def pooling(self) -> Pool:
        """The pool after defaults."""
        defaults: dict[str, Pool] = {"attention-pool": "attention", "logistic": "mean-std"}
        return self.pool or defaults.get(self.architecture, "mean")

    @property
    def reads_change(self) -> bool:
        """True when a token alone says little to the head: it reads how tokens differ."""
        return self.delta != "off" or self.pooling in STATISTICS


def _one_of(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{option} must be one of {', '.join(allowed)}; got '{value}'")


def only_multiplies_tokens(config: ModelConfig) -> bool:
    """True when tokens enter nothing but matrix products, which read them in bf16 under autocast anyway: then
    they can be stored in bf16. A transformer of the input's width adds to them, a max pool picks them, and changes
    are differences of what may be nearly equal.
    """
    if config.reads_change or config.architecture == "logistic":
        return False
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


class TokenModel(nn.Module):
    """Tokens to one logit a video: one head (`HeadModel`) or several (`heads.models.ensemble.HeadEnsemble`).

    Subclasses give `forward`, `input_scalings` and `pools_first`.
    """

    def logits(self, channels: Sequence[TokenBatch]) -> Tensor:
        """`forward` on token batches, one a channel."""
        logits: Tensor = self(
            [c.values for c in channels], [c.mask for c in channels], [c.times for c in channels]
        )
        return logits

    def input_scalings(self) -> list[InputScaling]:
        """The scaling of each channel."""
        raise NotImplementedError

    @property
    def pools_first(self) -> bool:
        """True when the inputs are pooled before anything else and what comes of it is standardised."""
        raise NotImplementedError

    @property
    def n_parameters(self) -> int:
        """Trained numbers."""
        return sum(p.numel() for p in self.parameters())


class HeadModel(TokenModel):
    """Tokens to one logit a video. Built for given stream widths; what stands in padding never changes a
    logit.

    stream_dims: width of each stream, in the order of the streams' sorted names.
    """

    def __init__(self, config: ModelConfig, stream_dims: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.stream_dims = stream_dims
        self._stream_dims = list(stream_dims)
        channels = [(dim,) for dim in stream_dims] if config.separate_streams else [stream_dims]
        scaling: Scaling = "none" if self.pools_first and config.scaling == "standard" else config.scaling
        self.scalings = nn.ModuleList(InputScaling(scaling, dims) for dims in channels)
        widened = 2 if config.delta == "beside" else 1
        stream_dims = tuple(widened * dim for dim in stream_dims)
        self.fusion: StreamFusion | None = None
        self.project: nn.Linear | None = None
        self.attention: AttentionEncoder | None = None
        self.mlp: TokenMLP | None = None
        self.conv: TemporalConv | None = None
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
        self.standardise: Standardise | None = None
        if self.pools_first:
            self.pool = TokenPool(config.pooling, dim)
            dim = statistic_width(config.pooling, dim)
            self.standardise = Standardise(dim)
        if config.architecture == "mlp":
            self.mlp = TokenMLP(dim, width=width, depth=depth, dropout=config.dropout)
            dim = self.mlp.dim
        elif config.architecture == "conv":
            self.conv = TemporalConv(dim, width=width, depth=depth, dropout=config.dropout)
            dim = width
        if not self.pools_first:
            self.pool = TokenPool(config.pooling, dim)
        self.dropout = Dropout(0.0 if self.attention or self.conv or (self.mlp and depth) else config.dropout)
        self.stand_ins: nn.ParameterList | None = None
        if config.absent:
            widths = [self.standardise.mean.numel()] if self.standardise else [sum(own) for own in channels]
            self.stand_ins = nn.ParameterList(nn.Parameter(torch.zeros(width)) for width in widths)
        one_map = config.architecture in ("linear", "logistic")
        self.classifier: nn.Module = nn.Linear(dim, 1) if one_map else Classifier(dim)

    @property
    def pools_first(self) -> bool:
        """True when the inputs are pooled before anything else and what comes of it is standardised."""
        return self.config.architecture == "logistic" or self.config.pooling in STATISTICS

    def input_scalings(self) -> list[InputScaling]:
        """The scaling of each channel, for fitting."""
        return [scaling for scaling in self.scalings if isinstance(scaling, InputScaling)]

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
        if self.stand_ins is not None:
            scaled = self._dropping_streams(scaled)
            scaled = [_standing_in(x, own) for x, own in zip(scaled, self.stand_ins, strict=True)]
        scaled = self._changed(scaled, masks)
        if self.fusion is not None:
            x_BTD, mask_BT = self.fusion(list(scaled), list(masks), list(times))
        else:
            x_BTD, mask_BT = scaled[0], masks[0]
        if self.project is not None:
            x_BTD = self.project(x_BTD)
        if self.mlp is not None:
            x_BTD = self.mlp(x_BTD)
        if self.conv is not None:
            x_BTD = self.conv(x_BTD, mask_BT)
        if self.attention is not None:
            x_BTD, mask_BT = self.attention(x_BTD, mask_BT)
        return x_BTD, mask_BT

    def _dropping_streams(self, scaled: Sequence[Tensor]) -> list[Tensor]:
        """In training, one stream of some videos taken away (NaN), never the only one that is there."""
        share, n_streams = self.config.stream_dropout, len(self._stream_dims)
        if not self.training or not share or n_streams < 2:
            return list(scaled)
        views = list(torch.split(scaled[0], self._stream_dims, dim=2)) if len(scaled) == 1 else list(scaled)
        here_SB = torch.stack([~view[:, 0, 0].isnan() for view in views])
        draws_B = torch.rand(here_SB.shape[1]).to(here_SB.device)
        chosen_B = torch.randint(n_streams, draws_B.shape).to(here_SB.device)
        dropped_B = (draws_B < share) & (here_SB.sum(dim=0) > 1)
        views = [
            view.masked_fill((dropped_B & (chosen_B == place))[:, None, None], torch.nan)
            for place, view in enumerate(views)
        ]
        return [torch.cat(views, dim=2)] if len(scaled) == 1 else views

    def _changed(self, scaled: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        return [with_changes(self.config.delta, x, m) for x, m in zip(scaled, masks, strict=True)]

    def pooled(self, scaled: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
        """The pools of scaled inputs, channels side by side, float32 [B, D]: what `standardise` is fitted on."""
        parts = zip(self._changed(scaled, masks), masks, strict=True)
        return torch.cat([self.pool(x_BTD.float(), mask_BT) for x_BTD, mask_BT in parts], dim=1)

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
        if self.pools_first:
            return self.from_pooled(self.pooled(scaled, masks))
        return self._classified(self.dropout(self.pool(*self._encode_scaled(scaled, masks, times))))

    def from_pooled(self, pooled_BD: Tensor) -> Tensor:
        """`forward_scaled` of a head that pools first, from what `pooled` gives."""
        assert self.standardise is not None
        pooled_BD = self.standardise(pooled_BD)
        if self.stand_ins is not None:
            pooled_BD = _standing_in(pooled_BD, self.stand_ins[0])
        return self._classified(self.dropout(pooled_BD if self.mlp is None else self.mlp(pooled_BD)))

    def _classified(self, pooled_BD: Tensor) -> Tensor:
        with torch.autocast(pooled_BD.device.type, enabled=False):
            logits: Tensor = self.classifier(pooled_BD.float()).squeeze(-1)
        return logits


def _standing_in(x: Tensor, stand_in_D: Tensor) -> Tensor:
    """What is not there (NaN) replaced by the learned stand-in of its column; the last axis is D."""
    return torch.where(x.isnan(), stand_in_D.to(x.dtype), x)


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
