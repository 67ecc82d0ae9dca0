"""The registry of data sets. To add one: one module here with a RECIPE, and one line in MODULES.

A recipe turns a publisher's files (or nothing, if it renders) into the zip that every trainer reads, with a manifest
inside. `python -m tools.data NAME [SOURCE] DEST` runs one; `python -m tools.data --help` lists all.
"""

from importlib import import_module

from experiments.datasets.recipe import Recipe

MODULES = (
    "openmoji",
    "openmoji_clips",
    "openmoji_views",
    "people",
    "people_clips",
    "aligned",
    "own",
    "imagenet",
    "lsun_church",
    "lsun_cat",
    "ffhq",
    "taichi",
    "taichi_videos",
    "sky_timelapse",
    "youtube_driving",
)
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (import_module(f"{__name__}.{module}").RECIPE for module in MODULES)
}
