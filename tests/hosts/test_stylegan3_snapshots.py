"""Metrics of StyleGAN3's snapshots with MTM."""


def test_calc_metrics_runs_with_a_metric_and_a_detector_of_ones_own(stylegan3, images, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "training_options.json").write_text("{}")
    path = folder / "network-snapshot-000000.pkl"
    checkout = stylegan3["patched"]
    checkout.probe("snapshot", path=str(path), kind="stylegan2", head="offset")
    extra = tmp_path / "extra"
    extra.mkdir()
    found = checkout.probe("metric", snapshot_path=str(path), data=str(images), folder=str(extra))
    assert found["result"] > 0
    assert len(found["cached"]) == 1
    assert found["images"] == 12
