"""LSUN Cat at 256 px."""

from experiments.datasets.lsun import lsun_recipe

RECIPE = lsun_recipe(
    name="lsun-cat-256",
    title="LSUN Cat at 256 x 256 px.",
    archive="http://dl.yf.io/lsun/objects/cat.zip",
    folder="cat",
    expected=1_657_266,
    more="Two of its records are empty: --skip-broken.",
)
