import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from remot_model import networks
from remot_model.generating import rollout
from remot_model.generating.cropping import Crop, by_size, crops_of, grown, on_crops
from tests.remot_model.windows import small_config


@given(
    st.tuples(st.integers(2, 12), st.integers(2, 12)),
    st.sampled_from([4, 8]),
    st.lists(st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)), min_size=1, max_size=3),
    st.booleans(),
)
def test_crops_hold_their_content_with_a_margin(cells, cell, points, parts):
    size = (cells[0] * cell, cells[1] * cell)
    content = torch.zeros(1, *size, dtype=torch.bool)
    for y, x in points:
        content[0, int(y * size[0]), int(x * size[1])] = True
    crops = crops_of(content, cell, parts)
    assert parts or len(crops) == 1
    covered = torch.zeros(size, dtype=torch.int64)
    for crop in crops:
        assert all(n % cell == 0 for n in (crop.top, crop.left, crop.height, crop.width))
        covered[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width] += 1
    assert covered.max() == 1 and covered.sum() == sum(crop.area for crop in crops)
    for y, x in content[0].nonzero().tolist():
        cells_round = covered[max(0, y - cell) : y + cell + 1, max(0, x - cell) : x + cell + 1]
        assert cells_round.all()
    rows, columns = (torch.div(n, cell, rounding_mode="floor") for n in content[0].nonzero().unbind(1))
    whole = 1
    for lines, limit in ((rows, cells[0]), (columns, cells[1])):
        whole *= (min(limit, lines.max().item() + 2) - max(0, lines.min().item() - 1)) * cell
    assert covered.sum() == whole if len(crops) == 1 else covered.sum() <= 0.8 * whole


def test_parts_that_lie_far_apart_have_crops_of_their_own():
    content = torch.zeros(2, 64, 48, dtype=torch.bool)
    content[1, 10:14, 8:40] = True  # arms
    content[1, 50:60, 10:14] = content[1, 50:60, 36:40] = True  # feet
    assert crops_of(content, 4, parts=True) == [Crop(1, 4, 4, 16, 40), Crop(1, 44, 4, 20, 16), Crop(1, 44, 32, 20, 12)]
    content[1, 14:50, 8:12] = True  # joined: one part
    assert crops_of(content, 4, parts=True) == crops_of(content, 4) == [Crop(1, 4, 4, 60, 40)]


@given(st.tuples(st.integers(2, 20), st.integers(2, 20)), st.sampled_from([4, 8]), st.data())
def test_a_crop_grows_to_one_of_five_sizes(cells, cell, data):
    shares = [(0.25, 0.5), (0.5, 0.5), (0.5, 1), (1, 0.5), (1, 1)]
    sizes = [tuple(cell * math.ceil(a * n) for a, n in zip(share, cells, strict=True)) for share in shares]
    (top, bottom), (left, right) = (
        sorted(cell * n for n in data.draw(st.lists(st.integers(0, limit), min_size=2, max_size=2, unique=True)))
        for limit in cells
    )
    size = tuple(cell * n for n in cells)
    found = grown(Crop(3, top, left, bottom - top, right - left), size, cell)
    assert found.map == 3 and found.top % cell == found.left % cell == 0
    assert 0 <= found.top <= top < bottom <= found.top + found.height <= size[0]
    assert 0 <= found.left <= left < right <= found.left + found.width <= size[1]
    holding = [s for s in sizes if s[0] >= bottom - top and s[1] >= right - left]
    assert (found.height, found.width) == min(holding, key=math.prod)


def test_a_crop_grows_round_its_middle_within_the_frame():
    assert grown(Crop(0, 24, 16, 8, 12), (64, 48), 4) == Crop(0, 20, 12, 16, 24)  # odd: the first half is smaller
    assert grown(Crop(0, 60, 0, 4, 12), (64, 48), 4) == Crop(0, 48, 0, 16, 24)
    assert grown(Crop(0, 0, 20, 32, 28), (64, 48), 4) == Crop(0, 0, 0, 32, 48)
    assert grown(Crop(0, 0, 44, 36, 4), (64, 48), 4) == Crop(0, 0, 24, 64, 24)


def test_crops_of_a_few_sizes_are_the_others_grown():
    content = torch.zeros(3, 64, 48, dtype=torch.bool)
    content[0, 10:14, 8:40] = content[2, 20:24, 8:12] = True
    plain, few = crops_of(content, 4), crops_of(content, 4, few=True)
    assert few == [grown(crop, (64, 48), 4) for crop in plain] == [Crop(0, 0, 0, 32, 48), Crop(2, 16, 0, 16, 24)]


def test_what_a_network_sees_of_a_frame_is_part_of_its_identity():
    ways = [small_config(crop_regions=way) for way in (False, True, "sizes")]
    for stage, count in ((None, 3), ("region", 3), ("layout", 1)):
        assert len({config.digest(stage) for config in ways}) == count


def test_nothing_has_no_crop():
    assert crops_of(torch.zeros(2, 32, 24, dtype=torch.bool), 4) == []


def test_a_pasted_crop_is_where_it_was_cut():
    x, crop = torch.rand(2, 3, 32, 24), Crop(1, 4, 8, 16, 8)
    pasted = crop.paste(crop.cut(x), (32, 24))
    assert torch.equal(pasted[:, 4:20, 8:16], x[1, :, 4:20, 8:16])
    assert pasted.count_nonzero() == 3 * crop.area


def test_crops_of_one_size_go_together():
    crops = [Crop(0, 0, 0, 16, 16), Crop(2, 0, 4, 16, 8), Crop(3, 8, 8, 16, 16), Crop(2, 16, 4, 16, 16)]
    assert by_size(crops) == [[crops[0], crops[2], crops[3]], [crops[1]]]
    seen = []

    def double(x):
        seen.append(tuple(x.shape))
        return 2 * x

    x = torch.ones(4, 1, 32, 24)
    made = on_crops(double, crops, x)
    assert seen == [(3, 1, 16, 16), (1, 1, 16, 8)]
    assert made.flatten(1).sum(1).tolist() == [2 * 256, 0, 2 * 128 + 2 * 256, 2 * 256]


@pytest.mark.parametrize("way", [True, "sizes"])
def test_a_chunk_without_a_person_still_has_a_gradient_in_training(way):
    config = small_config(crop_regions=way)
    net = networks.generator("region", config)
    nobody, images = torch.zeros(1, 2, 32, 24, dtype=torch.int64), torch.rand(1, 2, 3, 32, 24)
    made, _ = rollout.regions(net, config, nobody, images, nobody)
    assert rollout.region_crops(config, nobody, nobody)[0] == [Crop(0, 0, 0, 8, 12 if way == "sizes" else 8)]
    made.square().sum().backward()
    with torch.no_grad():
        made, _ = rollout.regions(net, config, nobody, images, nobody)
    assert made.shape == (1, 2, 5, 3, 32, 24) and made.count_nonzero() == 0
