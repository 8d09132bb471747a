from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cache.reader import Cache, open_cache
from cache.schema import VideoFeatures
from heads.report.mistakes import MOST_WINDOWS, describe_mistakes, mistaken_rows, timeline_svg
from heads.report.outputs import write_training
from heads.report.page import facts, report_html, result_tables
from heads.report.thumbnails import middle_frame_jpeg
from heads.report.training_figures import final_evaluation, training_figures
from heads.train import train_head
from heads.trained.head import TrainedHead
from heads.trained.record import PredictionTable
from heads.trained.timeline import Timeline
from heads.training.config import TrainConfig
from tests.heads.synthetic import spans, toy_videos, write_cache


class Page(HTMLParser):
    """Everything that a browser would fetch, and the text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weak signal, so that there are mistakes; a test split whose ids must be escaped."""
    videos = toy_videos(80, signal=0.5)
    rows = []
    for i, video in enumerate(videos):
        split = "test" if i >= 64 else video.row.split
        name = f"<b>&amp;{i}.mp4" if split == "test" else Path(video.row.id).name
        changes = {"split": split, "id": f"{split}/{video.row.label_name}/{name}"}
        row = type(video.row)(**{f: changes.get(f, getattr(video.row, f)) for f in video.row.__slots__})
        rows.append(VideoFeatures(row, video.tokens))
    return write_cache(tmp_path_factory.mktemp("report") / "c.zarr", rows)


@pytest.fixture(scope="module")
def head(path: Path) -> TrainedHead:
    config = TrainConfig().updated({"epochs": 3, "batch_size": 8, "n_resamples": 30})
    with open_cache(path) as cache:
        return train_head(cache, config)


def test_the_page_holds_everything_and_fetches_nothing(head: TrainedHead, path: Path, tmp_path: Path) -> None:
    with open_cache(path) as cache:
        written = write_training(head, tmp_path / "h", cache=cache)
    page = Page(written["report"].read_bytes())
    assert page.sources
    assert all(source.startswith("data:image/") for source in page.sources)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert (
        page.sources[0]
        == "data:image/png;base64,"
        + base64.b64encode((tmp_path / "h" / "confusion_matrix.png").read_bytes()).decode()
    )
    assert page.tags.count("figure") == 6
    text = page.text
    for words in (
        "RANDOM backbone weights (clip: random (seed 0), slowfast: random (seed 0))",
        "test was scored once, after everything was chosen",
        "val chose epoch, temperature and threshold, so its scores are optimistic",
        "mean-pooled",
        f"{head.info.threshold.threshold:.4f}",
        "Mistakes on test",
        "probability that the head gives to the window alone",
    ):
        assert words in text
    mistakes = _mistakes(head)
    assert mistakes
    assert all(video_id in text for video_id in mistakes)  # ids are escaped
    assert page.tags.count("svg") == len(mistakes)


def _mistakes(head: TrainedHead) -> list[str]:
    assert head.training is not None
    table = head.training.predictions
    rows = mistaken_rows(table, "test", threshold=head.info.threshold.threshold)
    return [table.ids[row] for row in rows]


def test_every_number_names_its_split(head: TrainedHead) -> None:
    record = head.training
    assert record is not None
    assert final_evaluation(record).part == "test"
    assert [table.title.split(":")[0] for table in result_tables(record)] == ["test", "val", "train"]
    figures = {figure.file: figure for figure in training_figures(head, record)}
    assert "on test" in figures["pr_curve.png"].caption
    assert "on val" in figures["threshold_curve.png"].caption
    assert "fitted on val" in figures["reliability.png"].caption
    assert "these same videos" not in figures["reliability.png"].caption
    found = dict(facts(head, record))
    assert "val chose; test was scored once" in found["selection"]
    assert "random (seed 0)" in found["inputs"]


def test_the_most_confidently_wrong_come_first() -> None:
    table = PredictionTable(
        ids=tuple("abcdef"),
        labels=np.array([0, 0, 1, 1, 0, 1], np.int8),
        splits=("val",) * 5 + ("train",),
        groups=tuple("abcdef"),
        logits=np.zeros(6),
        probabilities=np.array([0.95, 0.2, 0.1, 0.45, 0.52, 0.0]),
    )
    rows = mistaken_rows(table, "val", threshold=0.5)
    assert [table.ids[row] for row in rows] == ["a", "c", "d", "e"]
    assert len(mistaken_rows(table, "val", threshold=0.15)) == 4
    assert len(mistaken_rows(table, "test", threshold=0.5)) == 0


def test_mistakes_say_what_happened(head: TrainedHead, path: Path, tmp_path: Path) -> None:
    assert head.training is not None
    table = head.training.predictions
    rows = mistaken_rows(table, "val", threshold=head.info.threshold.threshold)[:3]
    with open_cache(path) as cache:
        found = describe_mistakes(head, table, rows, cache=cache, src=tmp_path)
    for mistake, row in zip(found, rows, strict=True):
        assert mistake.id == table.ids[row]
        assert mistake.kind == ("missed" if mistake.label == "Fight" else "false alarm")
        assert mistake.decision != mistake.label
        assert mistake.picture is None
        assert "not under --src" in mistake.no_picture
        assert mistake.chart is not None
        assert mistake.chart.startswith("<svg")
    (plain,) = describe_mistakes(head, table, rows[:1], cache=None, src=None)
    assert plain.chart is None
    assert "--src DIR" in plain.no_picture


def test_a_page_without_mistakes_says_so(toy_cache: Cache, quick: TrainConfig) -> None:
    perfect = train_head(toy_cache, quick.updated({"epochs": 12, "lr": 0.01}))
    assert perfect.training is not None
    wrong = mistaken_rows(perfect.training.predictions, "val", threshold=perfect.info.threshold.threshold)
    page = Page(report_html(perfect, perfect.training, []))
    assert f"Mistakes on val: {len(wrong)}" in page.text
    assert ("None, at threshold" in page.text) == (len(wrong) == 0)


def test_pictures_are_inlined(head: TrainedHead, tmp_path: Path) -> None:
    from tests.videos import write_video

    assert head.training is not None
    table = head.training.predictions
    row = mistaken_rows(table, "val", threshold=head.info.threshold.threshold)[:1]
    write_video(tmp_path / table.ids[row[0]], seconds=2, width=320, height=180)
    (mistake,) = describe_mistakes(head, table, row, cache=None, src=tmp_path)
    assert mistake.picture is not None
    assert mistake.picture.startswith("data:image/jpeg;base64,")


def test_a_thumbnail_is_the_middle_frame_upright(tmp_path: Path) -> None:
    import io

    from PIL import Image

    from tests.videos import write_audio_only, write_noise, write_rotated, write_truncated, write_video

    def picture(path: Path) -> Image.Image:
        jpeg = middle_frame_jpeg(path)
        assert jpeg is not None
        return Image.open(io.BytesIO(jpeg))

    flat = picture(write_video(tmp_path / "a.mp4", seconds=2, width=320, height=180))
    assert flat.size == (240, 135)
    assert picture(write_rotated(tmp_path / "r.mp4", width=320, height=180)).size == (135, 240)
    assert picture(write_video(tmp_path / "one.mp4", seconds=0.1)).size == (64, 48)
    assert middle_frame_jpeg(write_audio_only(tmp_path / "x.mp4")) is None
    assert middle_frame_jpeg(write_noise(tmp_path / "n.mp4")) is None
    assert middle_frame_jpeg(tmp_path / "absent.mp4") is None
    middle_frame_jpeg(write_truncated(tmp_path / "t.avi", seconds=2))  # whatever it finds, it ends


def test_charts_are_to_scale_and_of_bounded_size() -> None:
    one = Timeline("a", "sliding", spans(1, 2.0), np.array([0.25]), 0.25)
    svg = timeline_svg(one, 0.5)
    assert "0.0 s" in svg
    assert "2.0 s" in svg
    assert "stroke-dasharray" in svg
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" fill="#0072b2"', svg)]
    assert heights == [pytest.approx(0.25 * (96 - 26 - 6), abs=0.11)]
    rng = np.random.default_rng(0)
    long = Timeline("b", "sliding", spans(5000, 10_000.0), rng.random(5000), 0.5)
    looked = Timeline("b", "attention", spans(5000, 10_000.0), rng.dirichlet(np.ones(5000)), 0.5)
    svg = timeline_svg(long, 0.5, attention=looked)
    assert svg.count("<rect") <= 1 + 2 * MOST_WINDOWS
    assert "each the highest of 25" in svg
    assert "10000.0 s" in svg
