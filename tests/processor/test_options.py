"""What a request may change: splitting, size, and how many image tokens its pictures may cost."""

import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.pictures import encoded, noise, per_patch, released
from vlmlab.batch import Sample
from vlmlab.processor.images import native, split, square
from vlmlab.processor.processor import Options

IMAGE = 32001
PICTURE = encoded(noise(600, 400), "PNG")


def one(*images):
    return Sample.from_text("<image>" * len(images), images)


@pytest.fixture(scope="module")
def processor(idefics2_tokenizer):
    return released(idefics2_tokenizer)


@pytest.fixture(scope="module")
def counting(idefics2_tokenizer):
    """A model with one visual token for each patch."""
    return released(idefics2_tokenizer, placeholders=per_patch)


def grids(batch):
    return batch.images.grid.tolist()


def test_splitting_on_and_off_by_request(processor, idefics2_tokenizer):
    splitting = released(idefics2_tokenizer, split.Config())
    for asked in (processor, splitting):
        assert len(grids(asked([one(PICTURE)], options=Options(split=True)))) == 5
        assert len(grids(asked([one(PICTURE)], options=Options(split=False)))) == 1
    assert len(grids(processor([one(PICTURE)]))) == 1
    assert len(grids(splitting([one(PICTURE)]))) == 5
    on, off = processor([one(PICTURE)], options=Options(split=True)), splitting([one(PICTURE)])
    assert torch.equal(on.images.patches, off.images.patches) and torch.equal(on.tokens, off.tokens)


def test_size_by_request(processor):
    assert grids(processor([one(PICTURE)])) == [[28, 42]]
    assert grids(processor([one(PICTURE)], options=Options(longest=448))) == [[27, 32]]  # 298 raised to 378
    assert grids(processor([one(PICTURE)], options=Options(longest=448, shortest=14))) == [[298 // 14, 32]]
    assert grids(processor([one(PICTURE)], options=Options(longest=280))) == [[20, 20]]
    assert grids(processor([one(PICTURE)], options=Options(shortest=500))) == [[500 // 14, 42]]
    assert grids(processor([one(PICTURE)], options=Options(images=square.Config(side=98)))) == [[7, 7]]
    with pytest.raises(ValueError, match="shortest <= longest"):
        processor([one(PICTURE)], options=Options(shortest=2000))


def test_options_for_each_of_a_batch(processor):
    samples = [one(PICTURE), one(PICTURE), one(PICTURE, PICTURE)]
    chosen = [Options(split=True), None, Options(longest=280)]
    batch = processor(samples, options=chosen)
    assert grids(batch) == [*grids(processor([samples[0]], options=chosen[0])), [28, 42], [20, 20], [20, 20]]
    assert [(row == IMAGE).sum() for row in batch.tokens] == [320, 64, 128]
    with pytest.raises(ValueError, match="2 options were given for 3 samples"):
        processor(samples, options=chosen[:2])


def test_fixed_squares_have_no_limits_and_no_crops(idefics2_tokenizer):
    fixed = released(idefics2_tokenizer, square.Config(side=98))
    assert grids(fixed([one(PICTURE)])) == [[7, 7]]
    for options in (Options(split=True), Options(longest=400), Options(shortest=400)):
        with pytest.raises(ValueError, match="fixed squares"):
            fixed([one(PICTURE)], options=options)
    assert grids(fixed([one(PICTURE)], options=Options(split=False))) == [[7, 7]]


def test_a_budget_gives_up_splitting_first(processor):
    for limit, tokens in ((400, 320), (320, 320), (319, 64), (64, 64)):
        batch = processor([one(PICTURE)], options=Options(split=True, max_visual_tokens=limit))
        assert int((batch.tokens == IMAGE).sum()) == tokens
        assert len(grids(batch)) * 64 == tokens
    with pytest.raises(ValueError, match="at least 128 visual tokens; 127 are allowed"):
        processor([one(PICTURE, PICTURE)], options=Options(max_visual_tokens=127))


def test_a_budget_makes_pictures_no_smaller_than_it_must(counting):
    full = int((counting([one(PICTURE)]).tokens == IMAGE).sum())
    assert full == 28 * 42
    for limit in (full, full - 1, 500, 100, 10, 1):
        batch = counting([one(PICTURE)], options=Options(max_visual_tokens=limit))
        tokens = int((batch.tokens == IMAGE).sum())
        assert tokens == sum(rows * columns for rows, columns in grids(batch)) <= limit
        assert tokens >= limit * 0.7 or limit == full
    with pytest.raises(ValueError, match="at least 1 visual tokens; 0 are allowed"):
        counting([one(PICTURE)], options=Options(max_visual_tokens=0))
    text = Sample.from_text("no picture")
    assert counting([text], options=Options(max_visual_tokens=0)).images is None


def test_a_fixed_square_fits_or_does_not(idefics2_tokenizer):
    fixed = released(idefics2_tokenizer, square.Config(side=98), per_patch)
    assert grids(fixed([one(PICTURE)], options=Options(max_visual_tokens=49))) == [[7, 7]]
    with pytest.raises(ValueError, match="at least 49 visual tokens; 48 are allowed"):
        fixed([one(PICTURE)], options=Options(max_visual_tokens=48))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), max_size=3), st.booleans(), st.integers(1, 900))
def test_counts_are_right_or_there_is_an_error(counting, sizes, splitting, limit):
    sample = Sample.from_text("<image>" * len(sizes), [PIL.Image.new("RGB", size) for size in sizes])
    options = Options(split=splitting, longest=196, shortest=28, max_visual_tokens=limit)
    try:
        batch = counting([sample], options=options)
    except ValueError as error:
        assert len(sizes) > limit and "visual tokens" in str(error)
        return
    seen = 0 if batch.images is None else len(batch.images.patches)
    assert int((batch.tokens == IMAGE).sum()) == seen <= limit


def test_crops_of_the_whole_pictures_size_and_of_the_largest():
    """The paper's section 3.4: sub-images resized to the size of the original, or all to the highest resolution."""
    plans = {
        resize: split.Split(split.Config(resize=resize)).plan(1500, 1001)
        for resize in ("published", "original", "maximum")
    }
    boxes = [(0, 0, 750, 500), (750, 0, 1500, 500), (0, 500, 750, 1001), (750, 500, 1500, 1001), (0, 0, 1500, 1001)]
    for plan in plans.values():
        assert [piece.box for piece in plan] == boxes
    assert [p.size for p in plans["published"]] == [(750, 500)] * 2 + [(750, 501)] * 2 + [(980, 653)]
    assert [p.size for p in plans["original"]] == [(980, 653)] * 5
    assert [p.size for p in plans["maximum"]] == [(980, 653)] * 2 + [(980, 654)] * 2 + [(980, 653)]
    small = split.Split(split.Config(resize="maximum")).plan(100, 50)
    assert [p.size for p in small] == [(980, 490)] * 5
    small = split.Split(split.Config(resize="original")).plan(600, 400)
    assert [p.size for p in small] == [(600, 400)] * 5


@given(st.integers(1, 40), st.integers(1, 40))
def test_crops_of_any_size_are_never_empty(width, height):
    for piece in split.Split(split.Config()).plan(width, height):
        left, top, right, bottom = piece.box
        assert 0 <= left < right <= width and 0 <= top < bottom <= height


@pytest.mark.parametrize("config", [native.Config, split.Config])
def test_limits_that_make_no_sense(config):
    for longest, shortest in ((10, 20), (10, 0), (0, 0)):
        with pytest.raises(ValueError, match="shortest <= longest"):
            config(longest=longest, shortest=shortest)


def test_a_picture_too_small_for_a_patch_is_named(idefics2_tokenizer):
    tiny = released(idefics2_tokenizer, native.Config(longest=980, shortest=1))
    with pytest.raises(ValueError, match=r"^sample 1: picture in memory: .*3 x 5 pixels holds no whole patch of 14"):
        tiny([Sample.from_text("a"), one(PIL.Image.new("RGB", (3, 5)))])


def test_errors_name_the_sample_and_the_picture(processor):
    with pytest.raises(ValueError, match=r"^sample 1: no/such.png: no such picture"):
        processor([one(PICTURE), one(PICTURE, "no/such.png")])
    with pytest.raises(ValueError, match=r"^no/such.png: no such picture"):
        processor([one("no/such.png")])
    with pytest.raises(ValueError, match="no samples"):
        processor([])
    with pytest.raises(ValueError, match="empty"):
        processor([Sample(())])


def test_threads_do_not_change_a_batch(processor):
    shared = noise(500, 400, seed=5)
    samples = [one(PICTURE, shared), one(shared), Sample.from_text("x"), one(*[PICTURE] * 5)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = processor(samples)
        torch.set_num_threads(3)
        together = processor(samples)
        single = processor(samples[3:])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone.images.patches, together.images.patches) and torch.equal(alone.tokens, together.tokens)
    assert torch.equal(single.images.patches, alone.images.patches[-5 * 28 * 42 :])


def test_patches_stay_small_until_they_are_collated(processor):
    encoded = processor.encode(one(PICTURE, PICTURE), options=Options(split=True))
    assert all(patches.dtype == torch.uint8 for patches in encoded.patches) and len(encoded.patches) == 10
    batch = processor.collate([encoded])
    assert batch.images.patches.dtype == torch.float32 and batch.images.grid.tolist() == [list(g) for g in encoded.grid]
