"""How the benchmarks measure: medians over rounds in which all candidates take turns, and peak memory.

They take turns so that a drift in the machine's speed favours none of them. Compare ratios; milliseconds are valid only
for this machine at this time.
"""

import ctypes
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

Run = Callable[[], object]
Clock = Callable[[Run], float]
# The GPU waits this long (about 2 ms) before each timed call, so that launches are queued by then, as in training.
HEAD_START_CYCLES = 4_000_000
FEWEST_ROUNDS = 5
STATISTICS: dict[str, Callable[[list[float]], float]] = {"median": statistics.median, "min": min}


def wall_ms(run: Run) -> float:
    """Wall-clock time of a call in ms; on a GPU including the work it queued."""
    synchronize()
    start_s = time.perf_counter()
    run()
    synchronize()
    return (time.perf_counter() - start_s) * 1e3


def cpu_ms(run: Run) -> float:
    """Processor time of a call in ms, of all threads together: the clock least affected by other work."""
    start_s = time.process_time()
    run()
    return (time.process_time() - start_s) * 1e3


def event_ms(run: Run) -> float:
    """Time in ms that a GPU works on a call, without the launch overhead."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(HEAD_START_CYCLES)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def turns_ms(
    candidates: Mapping[str, Run | Iterator[Run]],
    clock: Clock = wall_ms,
    rounds: int = FEWEST_ROUNDS,
    seconds: float = 0.0,
    warm_up: int = 1,
    statistic: str = "median",
) -> dict[str, float]:
    """Median (or minimum) time of each candidate in ms, over at least `rounds` rounds and `seconds` in total.

    A candidate is a call, or an iterator that returns the call for each turn.
    """
    calls = {name: c if isinstance(c, Iterator) else itertools.repeat(c) for name, c in candidates.items()}
    for _ in range(warm_up):
        for runs in calls.values():
            next(runs)()
    times: dict[str, list[float]] = {name: [] for name in calls}
    end_s = time.perf_counter() + seconds
    for turn in itertools.count():
        if turn >= rounds and time.perf_counter() >= end_s:
            break
        for name, runs in calls.items():
            times[name].append(clock(next(runs)))
    return {name: STATISTICS[statistic](values) for name, values in times.items()}


def peak_mib(run: Run, device: str) -> float | None:
    """How far a call's peak memory rises above what was in use before it, in MiB; None if that cannot be read."""
    run()  # allocates libraries, thread pools and caches that stay
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    refs = Path("/proc/self/clear_refs")
    if not refs.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)  # memory that is freed but still held would hide as much of the next call's
    refs.write_text("5")  # peak := current
    resident = _status_mib("VmRSS")
    run()
    return _status_mib("VmHWM") - resident


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))
