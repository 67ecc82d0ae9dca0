"""Sources of clips: a clip is a video file or a folder of frames."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from experiments.datasets.images import SUFFIXES
from experiments.datasets.items import Item
from experiments.datasets.listing import VIDEO_SUFFIXES, choose, list_items, natural
from experiments.datasets.parts import Shard
from experiments.datasets.paths import suffix_of
from experiments.datasets.published import tell_ignored


def list_clips(source: Path, split: str | None = None) -> list[Shard]:
    """The clips of a source and the frames of each, both in the natural order of their names.

    If some clips are in a folder named `split`, at any depth, only those are used, because the others belong to another
    split. Raises UserError as list_items does."""
    chosen, others = choose(list_items(source), lambda name: suffix_of(name) in (*SUFFIXES, *VIDEO_SUFFIXES))
    tell_ignored(others)
    if split is not None:
        inside = [item for item in chosen if split in PurePosixPath(item.name).parts[:-1]]
        chosen = inside or chosen
    clips: dict[str, list[Item]] = {}
    for item in chosen:
        is_video = suffix_of(item.name) in VIDEO_SUFFIXES
        clips.setdefault(item.name if is_video else str(PurePosixPath(item.name).parent), []).append(item)
    ordered = {name: sorted(clips[name], key=lambda item: natural(item.name)) for name in sorted(clips, key=natural)}
    return [Shard(name, tuple(items)) for name, items in ordered.items()]


def cut_clips(clips: Sequence[Shard], clip_frames: int) -> list[Shard]:
    """The clips, with long ones cut into several. Videos are not cut here, because their numbers of frames are not
    known yet."""
    return [
        Shard(f"{clip.name} from frame {begin}", clip.items[begin : begin + clip_frames])
        for clip in clips
        for begin in range(0, len(clip.items), clip_frames)
    ]
