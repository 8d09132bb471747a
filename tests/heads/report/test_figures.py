from __future__ import annotations

import io

import numpy as np
from PIL import Image

from heads.report.figures import Provenance, confusion_matrix_png
from heads.scoring.evaluate import evaluate


def test_confusion_matrix_is_a_picture_and_always_the_same_one() -> None:
    labels = np.array([0, 1, 0, 1], np.int8)
    found = evaluate(
        "head", "val", labels, np.array([0.1, 0.9, 0.7, 0.8]), threshold=0.5, groups=list("abcd")
    )
    first = confusion_matrix_png(
        found, label_names=("NonFight", "Fight"), provenance=Provenance("clip: openai")
    )
    again = confusion_matrix_png(
        found, label_names=("NonFight", "Fight"), provenance=Provenance("clip: openai")
    )
    assert first == again
    picture = np.asarray(Image.open(io.BytesIO(first)).convert("L"))
    assert min(picture.shape) > 500
    assert picture.min() < 80
    assert picture.max() == 255


def test_a_class_without_videos_is_drawn() -> None:
    labels = np.zeros(3, np.int8)
    found = evaluate("head", "val", labels, np.array([0.1, 0.2, 0.3]), threshold=0.5, groups=list("abc"))
    assert found.metrics.f1 is None
    assert confusion_matrix_png(
        found, label_names=("a", "b"), provenance=Provenance("w", "RANDOM w")
    ).startswith(b"\x89PNG")


def test_thresholds_of_each_video_are_drawn() -> None:
    labels, scores = np.array([0, 1, 0, 1], np.int8), np.array([0.1, 0.9, 0.7, 0.8])
    own = np.array([0.5, 0.5, 0.8, 0.8])
    found = evaluate("head", "out-of-fold", labels, scores, threshold=own, groups=list("abcd"))
    assert confusion_matrix_png(found, label_names=("a", "b"), provenance=Provenance("w"))
