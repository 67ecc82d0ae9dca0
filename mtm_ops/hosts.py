"""Which layers of a generator carry the module: the one table of the paper's layer groups."""

# Table 4's parameter increments force two, one and one replaced layers; the exact resolutions are our reading.
LAYER_GROUPS = {"low": (8, 16), "mid": (32,), "high": (64,)}


def parse_layers(spec: str | None) -> tuple[int, ...]:
    """Resolutions (px) that carry the module, ascending.

    Args:
        spec: what `--mtm` takes: "none" (or None or ""), groups ("low", "low,mid,high"), resolutions ("4,8,16"),
            or a mixture of both.

    Raises:
        ValueError: for an unknown group, or a resolution that is no power of two from 4 up.

    >>> parse_layers("low,mid"), parse_layers("16,4"), parse_layers("none")
    ((8, 16, 32), (4, 16), ())
    """
    words = [word.strip().lower() for word in (spec or "none").split(",")]
    if words == ["none"]:
        return ()
    layers: set[int] = set()
    for word in words:
        if word in LAYER_GROUPS:
            layers.update(LAYER_GROUPS[word])
        elif word.isdecimal() and int(word) >= 4 and int(word).bit_count() == 1:
            layers.add(int(word))
        else:
            raise ValueError(
                f"parse_layers: --mtm must list groups ({', '.join(LAYER_GROUPS)}) or resolutions that are powers of "
                f"two from 4 up, or be 'none'; got {word!r} in {spec!r}. For the paper's setting pass --mtm low."
            )
    return tuple(sorted(layers))
