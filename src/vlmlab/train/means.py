"""What the samples of a recipe are in the mean: measured where their files are here, else as published."""

import torch

from vlmlab.data.augment import Augment
from vlmlab.data.mixture import Ingredient, Mixed
from vlmlab.data.published import published
from vlmlab.data.reading import Reader, Shelf
from vlmlab.data.sources import Source, SourceConfig
from vlmlab.data.stream import Draw, Order
from vlmlab.model.vlm import VLM
from vlmlab.processor.processor import Config, Processor
from vlmlab.train.plan import Mean
from vlmlab.train.recipe import Recipe


def means(recipe: Recipe, model: VLM, config: Config, processor: Processor | None, count: int) -> dict[str, Mean]:
    """Each source's mean sample, over `count` of them; without a processor, as published.

    `model` may be without memory. Raises ValueError for a source that is not here and of which nothing is published.
    """
    found = {}
    for name, each in ingredients(recipe).items():
        why = "its tokenizer is not here"
        source = None
        try:
            source = each.data.build() if processor is not None else None
        except (ValueError, OSError) as error:
            why = str(error)
        if source is not None and processor is not None:
            found[name] = _measured(recipe, name, each, source, processor, count)
        else:
            found[name] = _published(recipe, name, each, model, config, why)
    return found


def ingredients(recipe: Recipe) -> dict[str, Ingredient]:
    """The sources of a recipe by name, those without weight left out; a single one is all there is."""
    data: SourceConfig = recipe.data
    if not isinstance(data, Mixed):
        return {data.name: Ingredient(data)}
    return {name: each for name, each in data.mixture().sources.items() if each.weight}


def _measured(recipe: Recipe, name: str, each: Ingredient, source: Source, processor: Processor, count: int) -> Mean:
    learn = each.learn or recipe.stage.learn
    shelf = Shelf(source, name, learn, each.tokens or recipe.stage.tokens, each.tokens, each.overlong, each.augment)
    reader = Reader(
        {name: shelf},
        lambda sample, learn, options: processor.encode(sample, learn=learn, options=options),
        processor.image_id,
        recipe.seed,
    )
    order, grids = Order(recipe.seed, {name: len(source)}), list[tuple[int, int]]()
    text = learned = tokens = 0
    drawn = min(count, len(source))
    for place in range(drawn):
        for piece in reader(Draw(name, order[place].number, 0)).pieces:
            grids += piece.grid
            tokens += len(piece.tokens)
            text += int((piece.tokens != processor.image_id).sum())
            learned += piece.learned
    if not tokens:
        raise ValueError(f"{name}: of {drawn} samples, none can be used; see vlmlab data stats")
    told = f"measured on {drawn} of {len(source):,}"
    again = each.augment.changes
    return Mean(
        len(source), len(grids) / drawn, _typical(grids), text / drawn, learned / drawn, tokens / drawn, told, again
    )


def _typical(grids: list[tuple[int, int]]) -> tuple[int, int] | None:
    """A grid of as many patches as these have in the mean, of the shape they have in the mean."""
    if not grids:
        return None
    area = sum(rows * columns for rows, columns in grids) / len(grids)
    shape = sum(rows for rows, _ in grids) / sum(columns for _, columns in grids)
    rows = max(1, round((area * shape) ** 0.5))
    return rows, max(1, round(area / rows))


def _published(recipe: Recipe, name: str, each: Ingredient, model: VLM, config: Config, why: str) -> Mean:
    known = published(each.data)
    if known is None:
        raise ValueError(f"{name}: nothing is published to count with, and it cannot be read here: {why}")
    images, grid, visual = known.images, None, 0
    if images:
        images *= 1 + 4 * (each.augment.split or 0.0)
        grid = _grid(known.size, each.augment, config)
        # Pictures side by side share the token between them, others have one on either side.
        visual = sum(model.placeholders(torch.tensor([grid]))) + 2 * (config.frame is not None)
    framed = images * 2 * (config.frame is not None)
    learn = each.learn or recipe.stage.learn
    text = known.text + framed + 2
    tokens = known.text + images * visual + 2
    learned = text if learn == "everything" else known.answers
    return Mean(known.samples, images, grid, text, learned, tokens, f"{known.what}: {known.told}", each.augment.changes)


def _grid(size: tuple[int, int], augment: Augment, config: Config) -> tuple[int, int]:
    """Rows and columns of a picture as the processor leaves it; where some are scaled up, of their mean."""
    low, high = augment.factors
    larger = 1 + augment.upscale * ((low + 2 * high) / 3 - 1)
    width, height = (round(side * larger) for side in size)
    _, (wide, tall) = config.images.build().plan(width, height)[-1]
    return max(1, tall // config.patch), max(1, wide // config.patch)
