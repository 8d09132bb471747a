"""Counts of flows add up to the counts of a run."""

from __future__ import annotations

from dataclasses import fields

from pipeline.counts import FlowCounts
from pipeline.reporting.report import ExtractReport


def test_two_rounds_are_summed_field_by_field() -> None:
    one = FlowCounts(stored_now=2, tokens={"clip": 5}, notes={"a": "x"}, decode_seconds=1.5)
    two = FlowCounts(stored_now=3, tokens={"clip": 7, "motion": 1}, notes={"b": "y"}, decode_seconds=0.5)
    one.add(two)
    assert (one.stored_now, one.decode_seconds) == (5, 2.0)
    assert one.tokens == {"clip": 12, "motion": 1} and one.notes == {"a": "x", "b": "y"}


def test_no_field_is_left_out_of_the_sum() -> None:
    samples = {"int": 3, "float": 2.5, "dict[str, str]": {"a": "why"}}
    values = {each.name: samples.get(str(each.type), {"a": 4}) for each in fields(FlowCounts)}
    total = FlowCounts()
    total.add(FlowCounts(**values))  # type: ignore[arg-type]
    assert {each.name: getattr(total, each.name) for each in fields(FlowCounts)} == values
    total.add(FlowCounts())
    assert {each.name: getattr(total, each.name) for each in fields(FlowCounts)} == values


def test_what_a_flow_left_in_the_cache_is_stored_before_in_the_report() -> None:
    """A touched file with the same bytes and a stored one that could not be read again stay stored."""
    report = ExtractReport(src="a", out="b", found=6, stored_before=1)
    counts = FlowCounts(stored_now=1, rejected_now=1, unchanged=1, kept={"k": "io"}, not_reached=1)
    assert counts.ended == 4
    report.add(counts)
    assert (report.stored_before, report.stored, report.rejected) == (3, 4, 1)
    assert report.adds_up
