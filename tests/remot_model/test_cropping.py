import torch
from hypothesis import given
from hypothesis import strategies as st

from remot_model import networks, rollout
from remot_model.cropping import Crop, by_size, crops_of, on_crops
from tests.remot_model.windows import small_config


@given(
    st.tuples(st.integers(2, 12), st.integers(2, 12)),
    st.sampled_from([4, 8]),
    st.lists(st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)), min_size=1, max_size=3),
)
def test_crops_hold_their_content_with_a_margin(cells, cell, points):
    size = (cells[0] * cell, cells[1] * cell)
    content = torch.zeros(1, *size, dtype=torch.bool)
    for y, x in points:
        content[0, int(y * size[0]), int(x * size[1])] = True
    (crop,) = crops_of(content, cell)
    rows, columns = content[0].nonzero().unbind(1)
    for first, last, begin, length, limit in (
        (rows.min(), rows.max(), crop.top, crop.height, size[0]),
        (columns.min(), columns.max(), crop.left, crop.width, size[1]),
    ):
        assert begin % cell == 0 and (length % (2 * cell) == 0 or length == limit)
        assert 0 <= begin <= max(0, first - cell)
        assert limit >= begin + length >= min(limit, last + 1 + cell)


def test_nothing_has_no_crop():
    assert crops_of(torch.zeros(2, 32, 24, dtype=torch.bool), 4) == [None, None]


def test_a_pasted_crop_is_where_it_was_cut():
    x, crop = torch.rand(3, 32, 24), Crop(4, 8, 16, 8)
    pasted = crop.paste(crop.cut(x), (32, 24))
    assert torch.equal(crop.cut(pasted), crop.cut(x))
    assert pasted.count_nonzero() == 3 * crop.area


def test_crops_of_one_size_go_together():
    crops = [Crop(0, 0, 16, 16), None, Crop(0, 4, 16, 8), Crop(8, 8, 16, 16)]
    assert by_size(crops) == [[0, 3], [2]]
    seen = []

    def double(x):
        seen.append(tuple(x.shape))
        return 2 * x

    x = torch.ones(4, 1, 32, 24)
    made = on_crops(double, crops, x)
    assert seen == [(2, 1, 16, 16), (1, 1, 16, 8)]
    assert made.flatten(1).sum(1).tolist() == [2 * 256, 0, 2 * 128, 2 * 256]


def test_a_chunk_without_a_person_still_has_a_gradient_in_training():
    config = small_config()
    net = networks.generator("region", config)
    nobody, images = torch.zeros(1, 2, 32, 24, dtype=torch.int64), torch.rand(1, 2, 3, 32, 24)
    made, _ = rollout.regions(net, config, nobody, images, nobody)
    made.square().sum().backward()
    with torch.no_grad():
        made, _ = rollout.regions(net, config, nobody, images, nobody)
    assert made.shape == (1, 2, 5, 3, 32, 24) and made.count_nonzero() == 0
