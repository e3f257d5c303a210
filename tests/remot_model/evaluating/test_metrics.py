from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remot_data.assets import AssetError
from remot_model.evaluating import metrics


def frames(seed: int, count: int = 3, height: int = 24, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_psnr_of_a_known_error():
    real = np.full((2, 16, 16, 3), 100, np.uint8)
    made = real.copy()
    made[0] += 10
    made[1, :, :, 0] -= 20
    # MSE 100 and 400 / 3.
    np.testing.assert_allclose(metrics.psnr(real, made), [28.130803608679, 26.881416242596], rtol=1e-9)


def test_psnr_does_not_wrap_around():
    real, made = np.full((1, 8, 8, 3), 250, np.uint8), np.full((1, 8, 8, 3), 2, np.uint8)
    np.testing.assert_allclose(metrics.psnr(real, made), 10 * np.log10(255**2 / 248**2))
    np.testing.assert_allclose(metrics.psnr(made, real), metrics.psnr(real, made))


def test_equal_frames_are_capped_in_the_mean_only():
    real = frames(0)
    assert np.isinf(metrics.psnr(real, real)).all()
    assert metrics.mean_psnr(np.array([np.inf, 20.0])) == 60.0


def test_ssim_of_flat_frames_is_the_luminance_term():
    real, made = np.full((1, 20, 20, 3), 100, np.uint8), np.full((1, 20, 20, 3), 120, np.uint8)
    c1 = (0.01 * 255) ** 2
    np.testing.assert_allclose(metrics.ssim(real, made), (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1), rtol=1e-6)
    assert metrics.ssim(real, real)[0] == pytest.approx(1)


def test_ssim_against_the_formula_written_out():
    real, made = frames(1, 1), frames(2, 1)
    c1, c2, n = (0.01 * 255) ** 2, (0.03 * 255) ** 2, 49
    values = []
    for channel in range(3):
        for y in range(24 - 6):
            for x in range(16 - 6):
                a = real[0, y : y + 7, x : x + 7, channel].astype(float)
                b = made[0, y : y + 7, x : x + 7, channel].astype(float)
                cov = ((a - a.mean()) * (b - b.mean())).sum() / (n - 1)
                top = (2 * a.mean() * b.mean() + c1) * (2 * cov + c2)
                values.append(top / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (a.var(ddof=1) + b.var(ddof=1) + c2)))
    np.testing.assert_allclose(metrics.ssim(real, made), np.mean(values), rtol=1e-6)


def test_masked_metrics_ignore_the_background_and_span_the_whole_frame():
    real, made = frames(3), frames(4)
    person = np.zeros(real.shape[:3], np.uint8)
    person[:, 4:20, 5:11] = 3
    other = np.where(person[..., None] != 0, made, frames(5))
    np.testing.assert_array_equal(metrics.mask_ssim(real, made, person), metrics.mask_ssim(real, other, person))
    np.testing.assert_array_equal(metrics.mask_psnr(real, made, person), metrics.mask_psnr(real, other, person))
    error = np.square(real.astype(float) - made)[person != 0].sum() / real.size
    assert metrics.mask_psnr(real, made, person).mean() == pytest.approx(10 * np.log10(255**2 / error), abs=0.5)
    inside = np.where(person[..., None] != 0, frames(6), made)
    assert (metrics.mask_psnr(real, made, person) != metrics.mask_psnr(real, inside, person)).all()


def test_tcm_of_the_real_frames_is_one():
    real = frames(7, 5)
    flow = np.random.default_rng(0).normal(0, 2, (5, 24, 16, 2)).astype(np.float32)
    visible = np.random.default_rng(1).random((5, 24, 16)) > 0.3
    np.testing.assert_allclose(metrics.tcm(real, real, flow), 1, rtol=1e-6)
    np.testing.assert_allclose(metrics.tcm(real, real, flow, visible), 1, rtol=1e-6)


def test_tcm_of_a_known_energy():
    real, made = (np.zeros((2, 8, 8, 3), np.uint8) for _ in range(2))
    real[1], made[1] = 10, 20
    flow = np.zeros((2, 8, 8, 2), np.float32)
    # Twice the change is four times the energy.
    np.testing.assert_allclose(metrics.tcm(real, made, flow), np.exp(-3), rtol=1e-5)
    still = np.zeros_like(real)
    np.testing.assert_allclose(metrics.tcm(real, still, flow), np.exp(-1), rtol=1e-5)


def test_tcm_punishes_flicker_and_freezing_alike_and_looks_only_where_it_is_told():
    rng = np.random.default_rng(3)
    real = np.clip(128 + rng.normal(0, 5, (6, 16, 16, 3)), 0, 255).astype(np.uint8)
    flow = np.zeros((6, 16, 16, 2), np.float32)
    flicker = np.clip(real + rng.normal(0, 20, real.shape), 0, 255).astype(np.uint8)
    frozen = np.repeat(real[:1], 6, 0)
    for made in (flicker, frozen):
        assert metrics.mean_tcm(metrics.tcm(real, made, flow)) < 0.5
    visible = np.ones((6, 16, 16), bool)
    visible[:, 8:] = False
    half = real.copy()
    half[:, 8:] = flicker[:, 8:]
    np.testing.assert_allclose(metrics.tcm(real, half, flow, visible), 1, rtol=1e-6)


def test_tcm_skips_frozen_frames():
    real = frames(8, 4)
    real[2] = real[1]
    values = metrics.tcm(real, real, np.zeros((4, 24, 16, 2), np.float32))
    np.testing.assert_array_equal(np.isnan(values), [False, True, False])
    assert metrics.mean_tcm(values) == pytest.approx(1)
    assert np.isnan(metrics.mean_tcm(values[1:2]))


@settings(max_examples=20, deadline=None)
@given(st.integers(-5, 5), st.integers(-5, 5))
def test_warp_by_whole_pixels_is_a_shift_with_the_border_repeated(dx: int, dy: int):
    image = frames(9, 1)[0].astype(np.float32)
    flow = np.broadcast_to(np.float32([dx, dy]), (24, 16, 2))
    want = np.pad(image, ((5, 5), (5, 5), (0, 0)), mode="edge")[5 + dy : 29 + dy, 5 + dx : 21 + dx]
    np.testing.assert_array_equal(metrics.warp(image, flow), want)


def test_warp_between_pixels_is_bilinear():
    image = np.float32([[[0.0], [10.0]], [[20.0], [30.0]]])
    flow = np.zeros((2, 2, 2), np.float32)
    flow[0, 0] = 0.25, 0.5
    assert metrics.warp(image, flow)[0, 0, 0] == pytest.approx(12.5)


@pytest.mark.parametrize(
    "made", [np.zeros((3, 24, 16, 3), np.float32), np.zeros((2, 24, 16, 3), np.uint8), np.zeros((24, 16, 3), np.uint8)]
)
def test_wrong_arrays_are_refused(made: np.ndarray):
    for metric in (metrics.ssim, metrics.psnr):
        with pytest.raises(ValueError, match="two uint8 arrays"):
            metric(frames(0), made)
    with pytest.raises(ValueError, match="person mask"):
        metrics.mask_psnr(frames(0), frames(1), np.ones((2, 24, 16), bool))
    with pytest.raises(ValueError, match="flow"):
        metrics.tcm(frames(0), frames(1), np.zeros((3, 12, 8, 2), np.float32))


def test_learned_metrics_that_are_absent_say_why(tmp_path, monkeypatch):
    def absent(name):
        raise AssetError(f"asset {name!r} is not to be had")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(metrics, "fetch", absent)
    learned = metrics.Learned()
    assert learned.unavailable["lpips"] == "asset 'lpips-alexnet' is not to be had"
    assert "remot[metrics]" in learned.unavailable["fid"] or str(tmp_path) in learned.unavailable["fid"]
    learned.update(frames(0), frames(1))
    assert learned.lpips(frames(0), frames(1)) is None and learned.compute() == {} and learned.networks == {}


def test_weights_under_the_right_name_that_are_other_weights_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(metrics, "find_spec", lambda library: True)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / metrics.FID_WEIGHTS).write_bytes(b"something else")
    (tmp_path / "other.safetensors").write_bytes(b"something else")
    monkeypatch.setattr(metrics, "fetch", lambda name: tmp_path / "other.safetensors")
    learned = metrics.Learned()
    assert learned.networks == {} and learned.compute() == {}
    assert "damaged or another file" in learned.unavailable["fid"]
    assert "could not be loaded" in learned.unavailable["lpips"]


@pytest.fixture(scope="module")
def learned() -> metrics.Learned:
    found = metrics.Learned()
    if "lpips" not in found.networks:
        pytest.skip(found.unavailable["lpips"])
    return found


def test_lpips_is_measured_after_a_plain_install(learned):
    real, made = frames(0, 3, 64, 48), frames(1, 3, 64, 48)
    found = learned.lpips(real, made)
    assert found.shape == (3,) and (found > 0.05).all()
    assert learned.lpips(real, real).tolist() == [0, 0, 0]
    assert learned.lpips(real[1:2], made[1:2])[0] == pytest.approx(found[1], rel=1e-5)
    assert learned.networks["lpips"].startswith("lpips-alexnet.safetensors, sha256 ")


def test_frames_too_small_for_lpips_leave_it_out(learned):
    found = metrics.Learned()
    assert found.lpips(frames(0, 1, 24, 16), frames(1, 1, 24, 16)) is None
    assert "smaller than 31 pixels" in found.unavailable["lpips"]


def ramps() -> tuple[np.ndarray, np.ndarray]:
    """A pair of frames [1, 32, 24, 3] that is the same on every machine: ramps, and the same with a wave on it."""
    y, x, c = np.meshgrid(np.arange(32), np.arange(24), np.arange(3), indexing="ij")
    real = 4 * y + 3 * x + 20 * c
    return real[None].astype(np.uint8), (real + np.rint(9 * np.sin(x + 0.7 * y)))[None].clip(0, 255).astype(np.uint8)


def test_golden_values():
    """Computed once with scikit-image 0.26 and numpy; another convention would not give them."""
    real, made = ramps()
    person = np.zeros((1, 32, 24), bool)
    person[:, 6:28, 5:18] = True
    values = {
        "ssim": metrics.ssim(real, made)[0],
        "psnr": metrics.psnr(real, made)[0],
        "mask_ssim": metrics.mask_ssim(real, made, person)[0],
        "mask_psnr": metrics.mask_psnr(real, made, person)[0],
    }
    golden = {"ssim": 0.8631198757, "psnr": 31.9982781620, "mask_ssim": 0.9633498476, "mask_psnr": 36.3044135475}
    assert values == pytest.approx(golden, rel=1e-6)


@pytest.mark.slow
class TestFID:
    """FID on random weights of the official shapes: the path, not the numbers."""

    @pytest.fixture(autouse=True)
    def hub(self, tmp_path, monkeypatch):
        for library in ("torch", "torchvision", "torchmetrics", "torch_fidelity"):
            pytest.importorskip(
                library, reason=f'{library} is not installed: pip install "remot[metrics]"', exc_type=Exception
            )
        import torch
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception

        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        torch.manual_seed(0)
        empty = tmp_path / "empty.pth"
        torch.save({}, empty)
        with monkeypatch.context() as patch:
            patch.setattr(Inception, "load_state_dict", lambda self, state: None)
            inception = Inception("inception-v3-compat", ["2048"], str(empty))
        torch.save(inception.state_dict(), folder / metrics.FID_WEIGHTS)
        monkeypatch.setattr(metrics, "file_sha256", lambda path: path.stem.rsplit("-", 1)[1] + "0" * 56)

    def test_it_runs_on_the_official_shape(self):
        import torch

        learned = metrics.Learned()
        assert learned.networks["fid"].startswith(metrics.FID_WEIGHTS)
        real, made = frames(0, 6, 64, 48), frames(1, 6, 64, 48)
        for part in (slice(0, 2), slice(2, 6)):
            learned.update(real[part], made[part])
        found = learned.compute()
        # FID by its formula, from the features of the same network.
        inception = learned._fid.inception
        stats = []
        with torch.no_grad():
            for images in (real, made):
                features = inception(torch.from_numpy(images).permute(0, 3, 1, 2)).double().numpy()
                stats.append((features.mean(0), np.cov(features, rowvar=False)))
        (m1, c1), (m2, c2) = stats
        roots = np.sqrt(np.clip(np.linalg.eigvals(c1 @ c2).real, 0, None)).sum()
        assert found["fid"] == pytest.approx(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * roots, rel=1e-2)

    def test_equal_frames_have_no_distance(self):
        learned = metrics.Learned()
        real = frames(0, 4, 64, 48)
        learned.update(real, real)
        assert learned.compute()["fid"] == pytest.approx(0, abs=1e-3)


def test_every_metric_names_its_convention():
    assert set(metrics.CONVENTIONS) == {"ssim", "psnr", "mask_ssim", "mask_psnr", "tcm", "tcm_masked", "lpips", "fid"}
