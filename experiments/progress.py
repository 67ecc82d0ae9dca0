"""Live progress of several rows: bars on a terminal, occasional lines elsewhere."""

import os
import sys
import time
from typing import Protocol, TextIO

from tqdm import tqdm

LINE_EVERY_S = 30.0


class Progress(Protocol):
    """Receives the progress of the runner's rows. kimg counts thousands of images shown to the discriminator."""

    def tick(self, row_id: str, kimg: float, total_kimg: float) -> None:
        """A row has reached kimg of total_kimg."""

    def stage(self, row_id: str, text: str) -> None:
        """A row enters another stage: 'metrics', 'done', ..."""

    def refresh(self) -> None:
        """Is called a few times a second."""

    def close(self) -> None:
        """Ends the display; no calls follow."""


def make_progress(row_ids: list[str], stream: TextIO | None = None) -> Progress:
    """Bars if `stream` (default: stderr) is a terminal, else lines."""
    stream = stream or sys.stderr
    return BarProgress(row_ids, stream) if stream.isatty() else LineProgress(row_ids, stream)


class BarProgress:
    """One tqdm bar per row, with the time left."""

    def __init__(self, row_ids: list[str], stream: TextIO) -> None:
        width = max(map(len, row_ids), default=0)
        layout = "{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} kimg  {elapsed} < {remaining} left{postfix}"
        # The terminals of some containers report a size of 0 x 0, for which tqdm would draw nothing.
        size = {"dynamic_ncols": True} if _width(stream) else {"ncols": 80, "nrows": 24}
        self._bars = {
            row_id: tqdm(desc=row_id.ljust(width), position=i, total=1.0, file=stream, bar_format=layout, **size)
            for i, row_id in enumerate(row_ids)
        }
        self._started: set[str] = set()
        self._refreshed_s = 0.0

    def tick(self, row_id: str, kimg: float, total_kimg: float) -> None:
        bar = self._bars[row_id]
        if row_id not in self._started:  # else work before the resume would count in the speed
            self._started.add(row_id)
            bar.reset(total=total_kimg)
            bar.initial = bar.n = bar.last_print_n = kimg
        bar.update(kimg - bar.n)

    def stage(self, row_id: str, text: str) -> None:
        self._bars[row_id].set_postfix_str(f" {text}", refresh=True)

    def refresh(self) -> None:
        if time.monotonic() - self._refreshed_s > 1.0:
            self._refreshed_s = time.monotonic()
            for bar in self._bars.values():
                bar.refresh()

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()


class LineProgress:
    """One line per row every `every_s` seconds and at each change of stage, for logs and CI."""

    def __init__(self, row_ids: list[str], stream: TextIO, every_s: float = LINE_EVERY_S) -> None:
        self._width = max(map(len, row_ids), default=0)
        self._stream, self._every_s = stream, every_s
        self._first: dict[str, tuple[float, float]] = {}
        self._printed: dict[str, tuple[float, float]] = {}  # time and kimg of the last line

    def tick(self, row_id: str, kimg: float, total_kimg: float) -> None:
        now = time.monotonic()
        start_s, start_kimg = self._first.setdefault(row_id, (now, kimg))
        printed_s, printed_kimg = self._printed.get(row_id, (-1e9, -1.0))
        if kimg == printed_kimg or (now - printed_s < self._every_s and kimg < total_kimg):
            return
        self._printed[row_id] = now, kimg
        text = f"{kimg:.4g}/{total_kimg:.4g} kimg ({kimg / max(total_kimg, 1e-9):.0%})"
        if kimg > start_kimg:
            s_per_kimg = (now - start_s) / (kimg - start_kimg)
            text += f", {s_per_kimg:.1f} s/kimg, {duration_text((total_kimg - kimg) * s_per_kimg)} left"
        self._print(row_id, text)

    def stage(self, row_id: str, text: str) -> None:
        self._print(row_id, text)

    def refresh(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _print(self, row_id: str, text: str) -> None:
        print(f"{row_id.ljust(self._width)}  {text}", file=self._stream, flush=True)


def _width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


def duration_text(seconds: float) -> str:
    """'42 s', '3 min 05 s' or '2 h 07 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
