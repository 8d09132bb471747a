from __future__ import annotations

import math

import pytest
import torch

from cache.errors import InputError
from heads.training.losses import HeadLoss, LossConfig, balanced_sample, positive_weight

LOGITS = torch.tensor([-3.0, -0.5, 0.0, 0.2, 4.0])
LABELS = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])


def test_pos_weight_is_negatives_over_positives() -> None:
    assert positive_weight(LossConfig(), n_negative=893, n_positive=2393) == pytest.approx(0.3732, abs=5e-5)
    assert positive_weight(LossConfig(pos_weight="off"), n_negative=1, n_positive=9) == 1
    assert positive_weight(LossConfig(pos_weight=7.5), n_negative=1, n_positive=9) == 7.5
    assert positive_weight(LossConfig(), n_negative=1, n_positive=9, balanced_batches=True) == 1
    assert positive_weight(LossConfig(kind="focal"), n_negative=1, n_positive=9) == 1
    for negative, positive in ((5, 0), (0, 5)):
        with pytest.raises(InputError, match="needs both classes"):
            positive_weight(LossConfig(), n_negative=negative, n_positive=positive)


def test_bce_is_torchs_own() -> None:
    loss = HeadLoss(LossConfig(), pos_weight=0.3732)
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(0.3732))(LOGITS, LABELS)
    torch.testing.assert_close(loss(LOGITS, LABELS), expected)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (None, 2.0), (0.7, 0.0), (0.25, 1.5)])
def test_focal_is_torchvisions(alpha: float | None, gamma: float) -> None:
    from torchvision.ops import sigmoid_focal_loss

    ours = HeadLoss(LossConfig(kind="focal", focal_alpha=alpha, focal_gamma=gamma), pos_weight=1.0)
    theirs = sigmoid_focal_loss(LOGITS, LABELS, alpha=-1 if alpha is None else alpha, gamma=gamma)
    torch.testing.assert_close(ours.per_video(LOGITS, LABELS), theirs)


def test_label_smoothing_moves_targets_towards_half() -> None:
    smoothed = HeadLoss(LossConfig(label_smoothing=0.2), pos_weight=1.0).per_video(LOGITS, LABELS)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        LOGITS, torch.where(LABELS == 1, 0.9, 0.1), reduction="none"
    )
    torch.testing.assert_close(smoothed, expected)


def test_balanced_sample_shows_both_classes_equally() -> None:
    labels = torch.zeros(2000)
    labels[:10] = 1
    drawn = balanced_sample(labels, generator=torch.Generator().manual_seed(0))
    assert len(drawn) == 2000
    assert labels[drawn].mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "hinge"},
        {"pos_weight": "balanced"},
        {"pos_weight": 0.0},
        {"pos_weight": math.nan},
        {"focal_alpha": 1.0},
        {"focal_gamma": -1.0},
        {"label_smoothing": 0.5},
    ],
)
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        LossConfig(**options)  # type: ignore[arg-type]


def test_weight_must_be_a_positive_number() -> None:
    with pytest.raises(InputError):
        HeadLoss(LossConfig(), pos_weight=math.inf)
