"""Make a data set: from the publisher's files, or rendered, to the zip that every trainer reads.

    python -m tools.data --help                         the data sets, how to obtain them, and their terms
    python -m tools.data openmoji faces.zip
    python -m tools.data images PHOTOS cats32.zip --resolution 32
    python -m tools.data imagenet-128 ILSVRC2012_img_train.tar imagenet-128.zip

The registry: experiments/datasets/__init__.py.
"""

from pathlib import Path
from typing import Any

import click

from experiments.datasets import RECIPES
from experiments.datasets.recipe import Recipe
from experiments.files import UserError


class Recipes(click.Group):
    """A command for each recipe of the registry."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(RECIPES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return make_command(RECIPES[cmd_name]) if cmd_name in RECIPES else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Data sets"):
            formatter.write_dl([(recipe.name, f"{recipe.title} {terms(recipe)}") for recipe in RECIPES.values()])


def terms(recipe: Recipe) -> str:
    """How to obtain it, and its licence, as one text."""
    return f"{recipe.obtain} Licence: {recipe.licence}"


def facts(recipe: Recipe) -> list[str]:
    """What the publisher's source should contain, and how it is processed."""
    counts = ", ".join(f"{count:,} {what}" for what, count in recipe.expected.items())
    return [f"Expected: {counts}."] * bool(counts) + [f"Crop: {recipe.crop}"] * bool(recipe.crop)


def make_command(recipe: Recipe) -> click.Command:
    """The command that runs this recipe."""

    def run(dest: Path, source: Path | None = None, **options: Any) -> None:
        try:
            info = recipe.run(source, dest, **options)
        except UserError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            kept = "Decoded files are kept: run the same command again to resume." if recipe.resumable else ""
            raise click.ClickException(f"Stopped. {kept}") from None
        count = f"{info.clips} clips, {info.nimg} frames" if info.clips else f"{info.nimg} images"
        skipped = f", {info.skipped} broken ones skipped" if info.skipped else ""
        credit = f"\n{recipe.credit}" if recipe.credit else ""
        click.echo(
            f"{dest}: {count} of {info.resolution_px} x {info.resolution_px} px{skipped}, "
            f"content {info.content_sha256[:12]}{credit}"
        )

    path = click.Path(path_type=Path)
    arguments = [click.Argument(["source"], type=path)] * recipe.takes_source
    arguments.append(click.Argument(["dest"], type=path))
    help_text = "\n\n".join([recipe.title, terms(recipe), *facts(recipe)])
    return click.Command(recipe.name, params=[*arguments, *recipe.options], callback=run, help=help_text)


@click.group(cls=Recipes)
def main() -> None:
    """Make a data set: a zip that every trainer reads, with a manifest. COMMAND is the data set's name; its arguments
    are SOURCE, the files that the publisher provides (rendered data sets have no SOURCE), and DEST, the zip to write.
    For its options, run python -m tools.data COMMAND --help."""


if __name__ == "__main__":
    main(prog_name="python -m tools.data")
