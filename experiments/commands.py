"""What the commands that start runs share: an option, paths that are refused, and how errors and Ctrl-C end them."""

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
    """Ends a command with the message of a UserError, and at Ctrl-C while data is made or the report is drawn. A
    training stops by itself, with its snapshot."""
    try:
        yield
    except UserError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo(f"\nstopped; no partial file was left. {AGAIN}", err=True)
        raise SystemExit(130) from None


def check_paths(*paths: str) -> None:
    """Raises UserError for a path that is not UTF-8: JSON, reports and other machines could not hold it."""
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"run: out and --data must be UTF-8; got {os.fsencode(path)!r}. Rename it, or link to it (ln -s)."
            ) from None
