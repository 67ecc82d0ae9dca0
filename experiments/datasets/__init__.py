"""The registry of data sets. To add one: one module with a Recipe, and one line in RECIPES here.

A recipe turns what a publisher gives (or nothing, where it renders) into the zip that every trainer reads, with a
manifest inside. `python -m tools.data NAME [SOURCE] DEST` runs one; `python -m tools.data --help` lists them all.
"""

from experiments.datasets import openmoji, own
from experiments.datasets.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in [
        openmoji.RECIPE,
        own.RECIPE,
    ]
}
