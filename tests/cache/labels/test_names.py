"""Which of two names is the positive class."""

from __future__ import annotations

import unicodedata

import pytest

from cache.errors import LabelError
from cache.labels.names import LabelNames, choose_positive, is_known_word
from cache.schema import VideoLabel


@pytest.mark.parametrize(
    ("negative", "positive"),
    [
        ("NonFight", "Fight"),
        ("no_fight", "fight"),
        ("noFights", "fights"),
        ("Non-Violence", "Violence"),
        ("non violent", "violent"),
        ("safe", "harmful"),
        ("SAFE", "UNSAFE"),
        ("harmless", "harmful"),
        ("0", "1"),
        ("false", "true"),
        ("no", "yes"),
        ("Normal", "Abnormal"),
        ("normal", "Shoplifting"),
        ("Walking", "Assault"),
        ("neg", "pos"),
        ("no", "fi"),
        ("not_harmful", "harmful"),
    ],
)
def test_known_words_decide(negative: str, positive: str) -> None:
    assert choose_positive({negative, positive}, positive=None) == LabelNames(negative, positive)
    assert choose_positive([positive, negative], positive=None) == LabelNames(negative, positive)
    assert choose_positive({negative, positive}, positive=f" {negative.upper()}") == LabelNames(
        positive, negative
    )


def test_spellings_in_another_case_are_one_name() -> None:
    names = choose_positive(["Fight", "fight", "FIGHT", "nonfight"], positive=None)
    assert (names.number("FiGhT"), names.number(" NONFIGHT "), names.number("other")) == (1, 0, None)


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("Fight", LabelNames("NonFight", "Fight")),
        ("NonFight", LabelNames("NonFight", "Fight")),
        ("1", LabelNames("0", "1")),
        ("0", LabelNames("0", "1")),
        ("harmful", LabelNames("safe", "harmful")),
        ("safe", LabelNames("safe", "harmful")),
    ],
)
def test_a_single_known_name_has_a_usual_counterpart(only: str, expected: LabelNames) -> None:
    assert choose_positive({only}, positive=None) == expected


def test_a_single_name_with_a_flag() -> None:
    assert choose_positive({"street"}, positive="street") == LabelNames("Nonstreet", "street")
    assert choose_positive({"street"}, positive="brawl") == LabelNames("street", "brawl")
    assert choose_positive({"NonFight"}, positive="Fight") == LabelNames("NonFight", "Fight")
    for typed in ("Figth", "brawl"):  # the one class there is known to be the positive one
        with pytest.raises(LabelError, match="no such class"):
            choose_positive({"Fight"}, positive=typed)
    with pytest.raises(LabelError, match="did you mean street"):
        choose_positive({"street"}, positive="stret")


@pytest.mark.parametrize(
    ("names", "positive", "message"),
    [
        (set(), None, "no labels were found"),
        ({"cats", "dogs"}, None, "cannot tell .* --positive cats or --positive dogs"),
        ({"Fight", "Violence"}, None, "cannot tell"),
        ({"safe", "normal"}, None, "cannot tell"),
        ({"street"}, None, "only one class, street"),
        ({"Fight", "NonFight", "Fihgt"}, None, "two classes, but there are 3: Fight, Fihgt, NonFight"),
        ({"Fight", "NonFight", "Fihgt"}, "Fight", "two classes, but there are 3"),
        ({str(n) for n in range(20)}, None, "there are 20: .*, \\.\\.\\.;"),
        (
            {"Fight", "NonFight"},
            "Figth",
            "no such class; the classes are Fight, NonFight; did you mean Fight",
        ),
        ({"Fight", "NonFight"}, "", "no such class"),
        ({"1", "2"}, None, "cannot tell .* --positive 1 or --positive 2"),
        ({"0", "2"}, None, "cannot tell"),
        ({"0", "255"}, None, "cannot tell"),
        ({"1", "street"}, None, "cannot tell"),
    ],
)
def test_what_is_refused(names: set[str], positive: str | None, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        choose_positive(names, positive=positive)


def test_the_message_says_where_a_name_stands() -> None:
    with pytest.raises(LabelError, match=r"Fihgt \(labels.csv, line 7\)"):
        choose_positive({"Fight", "NonFight", "Fihgt"}, positive=None, where={"Fihgt": "labels.csv, line 7"})


def test_minus_one_is_not_one() -> None:
    assert is_known_word("1") and not is_known_word("-1") and not is_known_word("11")
    with pytest.raises(LabelError, match="cannot tell"):
        choose_positive({"2", "3"}, positive=None)
    assert choose_positive({"-1", "1"}, positive=None) == LabelNames("-1", "1")


def test_a_number_decides_beside_its_opposite() -> None:
    assert choose_positive({"1", "2"}, positive="2") == LabelNames("1", "2")
    assert choose_positive({"0", "Fight"}, positive=None) == LabelNames("0", "Fight")
    assert choose_positive({"1", "normal"}, positive=None) == LabelNames("normal", "1")


def test_the_unicode_form_of_a_name_does_not_count() -> None:
    nfc, nfd = (unicodedata.normalize(form, "Bagarré") for form in ("NFC", "NFD"))
    calm = unicodedata.normalize("NFD", "Sérénité")
    for typed in (nfc, nfd, nfd.upper()):
        names = choose_positive([nfc, nfd, calm], positive=typed)
        assert names == LabelNames(unicodedata.normalize("NFC", calm), nfc)
        assert (names.number(nfd), names.number(calm), names.label(nfd)) == (1, 0, VideoLabel(1, nfc))
    with pytest.raises(ValueError, match="two different"):
        LabelNames(nfc, nfd)


def test_names_make_labels_in_one_spelling() -> None:
    names = LabelNames("NonFight", "Fight")
    assert names.label("FIGHT", split="val", source="a") == VideoLabel(1, "Fight", "val", "a")
    assert names.label("nonfight") == VideoLabel(0, "NonFight")
    assert names.label("other") is None
    with pytest.raises(ValueError, match="two different"):
        LabelNames("Fight", "fight")
    with pytest.raises(ValueError, match="two different"):
        LabelNames("", "fight")
