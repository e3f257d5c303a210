import dataclasses
import json

import pytest

from remot_model.config import PRESETS, STAGES, VARIANTS, Config, ConfigError, StagePlan, preset, temporal_spacings


@pytest.mark.parametrize(
    "name", [*PRESETS, *(f"tiny:{name}" for name in VARIANTS), "small:no-wcn:layout6", "tiny:tau=0.1"]
)
def test_a_configuration_survives_json(name):
    config = preset(name)
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_the_paper_preset_has_the_published_numbers():
    c = preset("paper")
    assert (c.size, c.ngf, c.n_blocks, c.norm, c.layout_classes, c.tau) == ((256, 192), 64, 9, "instance", 11, 1.0)
    assert (c.lambda_rec, c.lambda_per, c.lambda_flow, c.lambda_gram) == (10, 10, 5, 0)
    assert (c.flow_scale, c.face_size) == (20, 32)
    assert temporal_spacings(c) == (1, 3)


def test_sizes_in_pixels_follow_the_height():
    tiny = preset("tiny")
    assert tiny.size == (64, 48)
    assert tiny.flow_scale == 5
    assert tiny.face_size == 16


def test_ablation_rows():
    assert not preset("paper:no-tam").use_tam
    assert preset("paper:no-wcn").stages == ("layout", "region")
    assert not preset("paper:no-gam").use_gam
    assert preset("paper").stages == STAGES


def test_variants_combine():
    c = preset("tiny:layout6:no-temporal:tau=0.1")
    assert (c.layout_classes, temporal_spacings(c), c.tau, c.size) == (6, (), 0.1, (64, 48))
    assert preset("paper:no-crops:layout11").digest() == preset("paper:no-crops").digest()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tiny:no-gam:no-wcn", "use_wcn twice"),
        ("tiny:layout6:layout11", "layout_classes twice"),
        ("tiny:no-wcn:no-tam", "use_tam changes nothing"),
        ("tiny:no-gam:tau=0.1", "tau changes nothing"),
        ("tiny:tau=0", "above 0"),
        ("tiny:tau=cold", "no variant 'tau=cold'"),
        ("tiny:no-hands", "no variant 'no-hands'; there are :no-tam"),
        ("tiny:", "no variant ''"),
    ],
)
def test_variants_that_make_no_sense_are_refused(name, why):
    with pytest.raises(ConfigError, match=why):
        preset(name)


def test_the_rate_is_constant_then_falls_to_zero():
    c = dataclasses.replace(preset("paper"), lr_epochs=0)
    assert [c.learning_rate("layout", x) / 2e-4 for x in (0, 0.5, 0.75, 1)] == pytest.approx([1, 1, 0.5, 0])


@pytest.mark.parametrize("steps", [10, 70, 900_000])
def test_the_rate_of_the_paper_is_that_of_its_ten_epochs(steps):
    """2e-4 in epochs 1 to 6, then 1.6, 1.2, 0.8 and 0.4e-4, at the first and the last step of each."""
    c = preset("paper")
    a = steps // 10
    rates = [[c.learning_rate("whole", x / steps) * 1e4 for x in (e * a, (e + 1) * a - 1)] for e in range(10)]
    expected = [2.0] * 6 + [1.6, 1.2, 0.8, 0.4]
    assert rates == [[pytest.approx(e), pytest.approx(e)] for e in expected]


def test_the_length_of_windows_doubles_after_equal_shares():
    plan = StagePlan(90, 1, length=3, doublings=2)
    assert [plan.phase(step / 90) for step in (0, 29, 30, 59, 60, 89, 90)] == [0, 0, 1, 1, 2, 2, 2]
    assert {StagePlan(9, 1).phase(x) for x in (0, 0.5, 1)} == {0}


@pytest.mark.parametrize("fields", [{"batch": 3, "accumulate": 2}, {"chunk": 0}, {"doublings": -1}])
def test_a_plan_that_makes_no_sense_is_refused(fields):
    with pytest.raises(ConfigError, match="accumulate"):
        StagePlan(**{"steps": 1, "batch": 1, **fields})


def test_the_digest_is_that_of_the_networks_alone():
    c = preset("tiny")
    assert dataclasses.replace(c, lambda_rec=1.0, flip=0.0).digest() == c.digest()
    assert dataclasses.replace(c, tau=0.1).digest() != c.digest()


@pytest.mark.parametrize("name", ["huge", "huge:no-tam", ""])
def test_an_unknown_preset_lists_the_known_ones(name):
    with pytest.raises(ConfigError, match=", ".join(PRESETS)):
        preset(name)


@pytest.mark.parametrize(
    "fields",
    [{"size": (65, 48)}, {"layout_classes": 7}, {"norm": "batch"}, {"mask_frames": 2}, {"decoder_blocks": 99}],
)
def test_the_impossible_is_refused(fields):
    with pytest.raises(ConfigError):
        dataclasses.replace(preset("tiny"), **fields)


def test_an_unknown_field_is_named():
    with pytest.raises(ConfigError, match="bogus"):
        Config.from_json({**preset("tiny").to_json(), "bogus": 1})


def test_stages_are_shared_by_runs_that_differ_elsewhere():
    full, plain = preset("tiny"), preset("tiny:no-wcn")
    no_tam, no_gam = preset("tiny:no-tam"), preset("tiny:no-gam")
    assert len({c.digest() for c in (full, no_tam, plain, no_gam)}) == 4
    assert len({c.digest("layout") for c in (full, no_tam, plain, no_gam)}) == 1
    assert full.digest("region") == no_tam.digest("region") == plain.digest("region") != no_gam.digest("region")
    assert full.digest("whole") != no_tam.digest("whole")
    assert dataclasses.replace(full, layout_classes=6).digest("layout") != full.digest("layout")
