"""LSUN Church (outdoor) at 256 px."""

from experiments.datasets.lsun import lsun_recipe

RECIPE = lsun_recipe(
    name="lsun-church-256",
    title="LSUN Church (outdoor, training images) at 256 x 256 px.",
    archive="http://dl.yf.io/lsun/scenes/church_outdoor_train_lmdb.zip",
    folder="church_outdoor_train_lmdb",
    expected=126_227,
)
