"""--mtm: which resolutions get the module."""

import pytest

from mtm_hosts.layers import LAYER_GROUPS, parse_layers


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ("low", (8, 16)),
        ("mid", (32,)),
        ("high", (64,)),
        ("low,mid", (8, 16, 32)),
        ("low,mid,high", (8, 16, 32, 64)),
        ("high,low", (8, 16, 64)),
        ("4,8,16", (4, 8, 16)),
        ("16,4", (4, 16)),
        ("low,128", (8, 16, 128)),
        ("low,8,low", (8, 16)),
        (" Low , MID ", (8, 16, 32)),
        ("1024", (1024,)),
        ("none", ()),
        ("None", ()),
        ("", ()),
        (None, ()),
    ],
)
def test_spec(spec, want):
    assert parse_layers(spec) == want


def test_groups_are_two_one_and_one_layers_as_table_4_forces():
    assert {name: len(layers) for name, layers in LAYER_GROUPS.items()} == {"low": 2, "mid": 1, "high": 1}


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("lo", "lo"),
        ("low;mid", "low;mid"),
        ("2", "2"),
        ("0", "0"),
        ("-8", "-8"),
        ("12", "12"),
        ("8.0", "8.0"),
        ("low,", ""),
        ("low,none", "none"),
        ("8²", "8²"),
    ],
)
def test_unknown_words_are_named(spec, word):
    message = f"^parse_layers: --mtm must list groups .low, mid, high. or resolutions .*got '{word}' in '{spec}'"
    with pytest.raises(ValueError, match=message):
        parse_layers(spec)
