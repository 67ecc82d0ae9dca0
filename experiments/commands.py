"""Shared by the commands that start runs: an option, the check of paths, and the handling of errors and Ctrl-C."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from experiments.files import UserError
from experiments.jobs import AGAIN

CACHE = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Folder of data sets already made.",
)


@contextmanager
def told() -> Iterator[None]:
    """Ends the command with the message of a UserError, or at Ctrl-C while data is made or the report is drawn. Runs
    handle Ctrl-C themselves: a training saves a snapshot first."""
    try:
        yield
    except UserError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo(f"\nstopped; no partial file was left. {AGAIN}", err=True)
        raise SystemExit(130) from None


def check_paths(*paths: str) -> None:
    """Raises UserError for a path that is not UTF-8, because JSON, reports and other machines cannot represent it."""
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"run: out and --data must be UTF-8; got {os.fsencode(path)!r}. Rename it, or link to it (ln -s)."
            ) from None
