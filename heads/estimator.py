"""Heads as scikit-learn estimators, for cross_val_score, TunedThresholdClassifierCV, searches and pipelines.

from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
X, y, groups = cached_videos(open_cache("cache/v1.zarr"))
cross_val_score(HeadClassifier(), X, y, groups=groups, cv=StratifiedGroupKFold(5), scoring="roc_auc")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from scipy.special import logit
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from cache.errors import InputError, OnepassError
from cache.tables import TokenArray
from heads.data.dataset import choose_streams, in_memory
from heads.data.splits import holdout
from heads.data.tokens import MemoryTokens
from heads.data.videos import groups_of, is_videos, table_to_ragged, to_ragged
from heads.scoring.calibration import probabilities
from heads.training.config import TrainConfig
from heads.training.decide import decide
from heads.training.device import Device, resolve_device
from heads.training.fit import fit, predict_logits

Float = npt.NDArray[np.float64]
SMALLEST = 1e-12


class _TokensMixin:
    """Reading X (see `heads.data.videos`) and remembering its streams."""

    def _read(self, X: Any, *, reset: bool) -> dict[str, TokenArray]:
        if is_videos(X):
            ragged = to_ragged(X)
            if reset:
                self.n_features_in_ = sum(part.values.shape[1] for part in ragged.values())
        else:
            table = validate_data(self, X, reset=reset, dtype=np.float32, allow_nd=True)
            if table.ndim > 3:
                raise ValueError(f"X must be [n, D] or [n, T, D], got {table.shape}")
            ragged = table_to_ragged(table)
        dims = {name: int(part.values.shape[1]) for name, part in ragged.items()}
        if reset:
            self.stream_dims_ = dims
        elif dims != self.stream_dims_:
            raise ValueError(f"X has streams and widths {dims}, but was fitted with {self.stream_dims_}")
        return ragged

    def __sklearn_tags__(self) -> Tags:
        tags = cast("Tags", super().__sklearn_tags__())  # type: ignore[misc]
        tags.input_tags.three_d_array = True
        return tags


class HeadClassifier(_TokensMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """One head with scikit-learn's interface.

    A group-disjoint share of the training videos (`config.data.val_share`) chooses epoch, temperature and
    threshold, as `train_head` does with val; groups are those of `CachedVideo`s, or `fit(..., groups=)`.

    config: the recipe, None for the default. model, epochs, lr, batch_size, dropout, scaling, loss: set in
    it where not None, to be searched over; settings: any other keys, such as {"pool": "max"}.
    threshold: "chosen", or a number in [0, 1] that predict uses instead (scikit-learn's own is 0.5).
    random_state: seed; None is the config's.

    After fit: classes_ (the second is positive), threshold_, temperature_, best_epoch_, history_, model_.
    What cannot be trained on raises ValueError.
    """

    def __init__(
        self,
        config: TrainConfig | None = None,
        *,
        model: str | None = None,
        epochs: int | None = None,
        lr: float | None = None,
        batch_size: int | None = None,
        dropout: float | None = None,
        scaling: str | None = None,
        loss: str | None = None,
        settings: Mapping[str, Any] | None = None,
        threshold: float | Literal["chosen"] = "chosen",
        device: Device = "auto",
        random_state: int | None = None,
    ) -> None:
        self.config = config
        self.model = model
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.dropout = dropout
        self.scaling = scaling
        self.loss = loss
        self.settings = settings
        self.threshold = threshold
        self.device = device
        self.random_state = random_state

    def train_config(self) -> TrainConfig:
        """The recipe with this estimator's parameters set. Raises InputError for values out of range."""
        named = {
            "model.architecture": self.model,
            "optim.epochs": self.epochs,
            "optim.lr": self.lr,
            "optim.batch_size": self.batch_size,
            "model.dropout": self.dropout,
            "model.scaling": self.scaling,
            "loss.kind": self.loss,
            "seed": self.random_state,
        }
        values = {**(self.settings or {}), **{k: v for k, v in named.items() if v is not None}}
        return (self.config or TrainConfig()).updated(values)

    def fit(self, X: Any, y: Any, groups: Any = None) -> HeadClassifier:
        """Train on all of X; groups: source group of each video, which no holdout may cut."""
        ragged = self._read(X, reset=True)
        targets = column_or_1d(y, warn=True)
        check_classification_targets(targets)
        self.classes_, labels = np.unique(targets, return_inverse=True)
        n = len(next(iter(ragged.values())).lengths)
        if len(labels) != n:
            raise ValueError(f"X holds {n} videos and y {len(labels)} labels")
        if len(self.classes_) != 2:
            raise ValueError(
                f"Only binary classification is supported. y holds {len(self.classes_)} class"
                f"{'' if len(self.classes_) == 1 else 'es'}"
            )
        own = groups_of(X) if groups is None and is_videos(X) else groups
        names = [str(g) for g in (range(n) if own is None else own)]
        try:
            self._fit(ragged, labels.astype(np.int8), names)
        except OnepassError as error:
            raise ValueError(str(error)) from error
        return self

    def _fit(self, ragged: dict[str, TokenArray], labels: npt.NDArray[np.int8], groups: list[str]) -> None:
        config = self.train_config()
        if self.threshold != "chosen" and not 0.0 <= float(self.threshold) <= 1.0:
            raise InputError(f"threshold must be 'chosen' or a number in [0, 1], got {self.threshold}")
        self.streams_ = choose_streams(tuple(ragged), config.data.streams, where="X")
        self.config_ = config
        tokens = self._tokens(ragged)
        rows = np.arange(len(labels))
        train, val = holdout(labels, groups, rows, val_share=config.data.val_share, seed=config.seed)
        result = fit(
            tokens,
            labels,
            train=train,
            val=val,
            stream_dims=tuple(self.stream_dims_[name] for name in self.streams_),
            config=config,
            device=resolve_device(self.device),
            groups=groups,
        )
        logits = predict_logits(result.model, tokens, val)
        decision = decide(logits, labels[val], config)
        self.temperature_ = decision.temperature
        self.model_ = result.model
        self.history_ = result.history
        self.best_epoch_ = result.best_epoch
        if self.threshold == "chosen":
            self.threshold_ = decision.choice.threshold
        else:
            self.threshold_ = float(self.threshold)

    def _tokens(self, ragged: dict[str, TokenArray]) -> MemoryTokens:
        config = self.config_
        return in_memory(
            {name: ragged[name] for name in self.streams_},
            separate_streams=config.model.separate_streams,
            grid=config.data.grid,
        )

    def _positive(self, X: Any) -> Float:
        check_is_fitted(self)
        tokens = self._tokens(self._read(X, reset=False))
        logits = predict_logits(self.model_, tokens, np.arange(tokens.n_videos))
        return probabilities(logits, temperature=self.temperature_)

    def predict_proba(self, X: Any) -> Float:
        """float64 [n, 2]: calibrated probabilities of classes_."""
        positive = self._positive(X)
        return np.stack([1 - positive, positive], axis=1)

    def decision_function(self, X: Any) -> Float:
        """float64 [n]: log odds above those of the threshold; at or above 0 is the positive class."""
        positive = np.clip(self._positive(X), SMALLEST, 1 - SMALLEST)
        difference: Float = logit(positive) - logit(np.clip(self.threshold_, SMALLEST, 1 - SMALLEST))
        return difference

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """classes_ [n], at `threshold_`."""
        positive = self._positive(X)
        return cast("npt.NDArray[Any]", self.classes_[(positive >= self.threshold_).astype(int)])

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


class MeanTokens(_TokensMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Each video as the mean of its tokens, streams side by side in the order of their names: float64 [n, D].

    The first step of a pipeline of plain scikit-learn models. streams: which, None for all.
    """

    def __init__(self, streams: tuple[str, ...] | None = None) -> None:
        self.streams = streams

    def fit(self, X: Any, y: Any = None) -> MeanTokens:
        """Remember the streams of X."""
        ragged = self._read(X, reset=True)
        try:
            self.streams_ = choose_streams(tuple(ragged), self.streams, where="X")
        except OnepassError as error:
            raise ValueError(str(error)) from error
        return self

    def transform(self, X: Any) -> Float:
        """float64 [n, D]."""
        check_is_fitted(self)
        ragged = self._read(X, reset=False)
        means = []
        for name in self.streams_:
            part = ragged[name]
            sums = np.add.reduceat(part.values.astype(np.float64), part.offsets[:-1], axis=0)
            means.append(sums / part.lengths[:, None])
        return np.concatenate(means, axis=1)
