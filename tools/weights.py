"""Fetch the pretrained networks that the metrics need, each verified by its hash: make weights.

    python -m tools.weights --dry-run                    what is present, what is missing, and the licences
    python -m tools.weights                              fetch everything missing
    python -m tools.weights clip-vit-b-32 --from USB     take it from a folder: no network is used

They go to the folder in MTM_WEIGHTS, else to `weights` in the repository. experiments/weights.toml lists them.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import click

from experiments.download import Download
from experiments.files import UserError, disk_errors, locked, sha256_of
from experiments.web import DownloadError
from experiments.weights import (
    PINNED,
    STAND_INS,
    State,
    Weights,
    examine,
    locate,
    missing_text,
    recorded,
    select,
    weights_folder,
)
from tools.archives import extract

REFUSED = ".refused"  # suffix with which a wrong file is renamed


def show(entries: list[Weights], folder: Path) -> str:
    """The state of each file as readable text."""
    lines = []
    for entry in entries:
        state = examine(entry, folder)
        lines += [
            f"{entry.name}: {state.kind}{f' ({state.reason})' if state.reason else ''}",
            f"    {entry.title}",
            f"    {entry.terms}",
            f"    used by {', '.join(entry.used_by)}",
            f"    from {entry.url}",
            *([f"    or   {entry.member} of {entry.archive}"] if entry.archive else []),
            f"    to   {state.path}",
        ]
    return "\n".join(lines)


def obtain(entries: list[Weights], folder: Path, source: Path | None, say: Callable[[str], None]) -> None:
    """Fetches every entry that `folder` lacks, or takes it from the folder `source`. If one fails, the others are still
    fetched. Raises one UserError that lists those that failed, with what to do by hand."""
    failed: list[tuple[Weights, State]] = []
    attempts = Download.attempts
    for entry in entries:
        try:
            state = examine(entry, folder)
            if state.kind not in ("present", "unpinned"):
                _make_room(state, say)
                _take(entry, folder, source) if source else _fetch(entry, folder, attempts)
            say(f"{entry.name}: {'present' if state.kind == 'present' else 'verified'}, {state.path}")
            locate([entry.name], folder)  # records the hash if nobody publishes one
        except UserError as error:
            if isinstance(error, DownloadError) and error.offline:
                attempts = 1  # the others need not wait as long
            say(f"{entry.name}: failed, see below")
            failed.append((entry, State("missing", folder / entry.file, reason=str(error).rstrip("."))))
    if failed:
        raise UserError(missing_text(failed, folder))


def _make_room(state: State, say: Callable[[str], None]) -> None:
    """Sets a wrong file aside. A stand-in stays until it is replaced: it can be made again."""
    if state.kind != "wrong":
        return
    if not state.path.is_file():
        raise UserError("something that is not a file has this name; rename it, then run the same command again")
    aside = state.path.with_name(state.path.name + REFUSED)
    with disk_errors(aside):
        os.replace(state.path, aside)
    say(f"{state.path}: {state.reason}. Renamed to {aside.name}.")


def _fetch(entry: Weights, folder: Path, attempts: int) -> None:
    accepts, reason = _acceptance(entry, folder), ""
    if entry.archive:
        try:
            with locked(folder / entry.file):
                extract(entry.archive, entry.member, folder / entry.file, accepts)
            return
        except UserError as error:  # no such client or no registry: use its address
            reason = str(error)
    try:
        _download(entry, folder, accepts, attempts)
    except DownloadError as error:
        raise DownloadError(f"{reason}; {error}" if reason else str(error), error.offline) from error


def _download(entry: Weights, folder: Path, accepts: Callable[[str], bool], attempts: int) -> None:
    Download(entry.url, accepts, label=entry.name, size_bytes=entry.size_bytes, attempts=attempts).to(
        folder / entry.file
    )


def _take(entry: Weights, folder: Path, source: Path) -> None:
    """Links or copies the file from `source`, where it is found by name or size, and accepted by its hash."""
    accepts, dest = _acceptance(entry, folder), folder / entry.file
    for candidate in _candidates(entry, source):
        if accepts(_sha256(candidate)):
            with locked(dest), disk_errors(dest):
                temporary = dest.with_name(f".{dest.name}.taken")
                try:
                    temporary.unlink(missing_ok=True)
                    _link_or_copy(candidate, temporary)
                    if not accepts(_sha256(temporary)):
                        raise UserError(f"{candidate}: it changed while it was copied. Run the same command again.")
                    os.replace(temporary, dest)
                finally:
                    temporary.unlink(missing_ok=True)
            return
    raise UserError(f"no file in {source} has the right bytes")


def _candidates(entry: Weights, source: Path) -> Iterator[Path]:
    """Files of `source` that may be this one: those of its name, then, if its hash is known, those of its size."""
    named = [entry.file, urlsplit(entry.url).path.rsplit("/", 1)[-1]]
    files = [path for path in sorted(source.iterdir()) if path.is_file()]
    yield from (path for path in files if path.name in named)
    if entry.sha256:  # without a hash, any file would do
        yield from (path for path in files if entry.size_bytes in (0, path.stat().st_size) and path.name not in named)


def _link_or_copy(source: Path, dest: Path) -> None:
    try:
        os.link(source.resolve(), dest)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, dest)


def _acceptance(entry: Weights, folder: Path) -> Callable[[str], bool]:
    """A function that decides by a file's sha256 whether it is this entry's."""
    pinned, stand_in = recorded(folder / PINNED).get(entry.name), recorded(folder / STAND_INS).get(entry.name)
    wanted = entry.sha256 or pinned
    return lambda sha256: sha256 == wanted if wanted else entry.accepts(sha256) and sha256 != stand_in


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Make it readable.") from error


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Take the files from this folder, by name or by content; no network is used.",
)
@click.option("--dry-run", is_flag=True, help="List every file with its state, size, licence, address and path.")
def main(names: tuple[str, ...], source: Path | None, dry_run: bool) -> None:
    """Fetch the weights of these NAMES, or all. Files that are there and verify are kept."""
    try:
        entries, folder = select(names), weights_folder()
        if dry_run:
            click.echo(show(entries, folder))
        else:
            obtain(entries, folder, source, say=click.echo)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        raise click.ClickException("stopped. Run the same command again to resume.") from None


if __name__ == "__main__":
    main(prog_name="python -m tools.weights")
