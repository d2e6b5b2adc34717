"""The processor: samples become a batch. Text, picture counts and pixels are decided in one place, here."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, TypeVar

import PIL.Image
import torch
from jaxtyping import Int, UInt8
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from vlmlab.batch import IGNORE, Batch, Images, Picture, Sample
from vlmlab.processor.chat import DOCUMENTS, Span, render
from vlmlab.processor.decode import Fetch, open_picture
from vlmlab.processor.formats import MAX_PIXELS
from vlmlab.processor.images import Piece, StrategyConfig, native, split
from vlmlab.processor.patches import cut, normalise

Learn = Literal["answers", "everything"]
Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class Config:
    """How pictures are cut and normalised, and the names of the control tokens. The defaults are the released model's.

    `frame` stands before and after each picture's tokens (None: nothing does). `ends` are the tokens that end an
    answer; those the model's vocabulary lacks are passed over.
    """

    images: StrategyConfig = dataclasses.field(default_factory=native.Config)
    patch: int = 14
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image: str = "<image>"
    frame: str | None = "<fake_token_around_image>"
    end_of_utterance: str = "<end_of_utterance>"
    bos: str | None = "<s>"
    eos: str = "</s>"
    pad: str | None = "<unk>"
    ends: tuple[str, ...] = ("</s>", "<end_of_utterance>")
    max_pixels: int = MAX_PIXELS


@dataclasses.dataclass(frozen=True)
class Options:
    """What one request may change: how its pictures are read, and how much they may cost.

    `images` replaces the strategy; `split` turns splitting on or off; `longest` and `shortest` change the limits in
    pixels. `scales` reads each picture as if it were so many times as large (empty: as large as it is): it is resized
    once. With `max_visual_tokens`, splitting is given up and then the pictures are made smaller, no more than it
    takes, until all the sample's image tokens together fit.
    """

    images: StrategyConfig | None = None
    split: bool | None = None
    longest: int | None = None
    shortest: int | None = None
    max_visual_tokens: int | None = None
    scales: tuple[float, ...] = ()


class Seen(NamedTuple):
    """One picture as the model sees it: the patches of each of its pieces, 8 bits a number, and their grids."""

    patches: list[UInt8[Tensor, "_ c"]]
    grid: list[tuple[int, int]]


class Encoded(NamedTuple):
    """One sample as token ids, which of them are learned (None: not asked), and its patches, still 8 bits a number."""

    tokens: list[int]
    learned: list[bool] | None
    patches: list[UInt8[Tensor, "_ c"]]
    grid: list[tuple[int, int]]


class Processor:
    """Turns samples into a batch, and token ids back into text.

    `placeholders` says how many `<image>` tokens stand for each image of a grid [n, 2] (rows, columns): it is the
    model's own count, handed in. `vocabulary` is the number of rows of the model's embedding. `fetch` gets pictures
    from URLs; without it they are refused.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer,
        placeholders: Callable[[Int[Tensor, "n 2"]], list[int]],
        vocabulary: int | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        self.config, self.placeholders, self.fetch = config, placeholders, fetch
        # What a user writes is text: the names of control tokens in it are read letter by letter.
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.encode_special_tokens = True
        names = (config.image, config.frame, config.end_of_utterance, config.bos, config.eos, config.pad)
        known = [name for name in names if name is not None and tokenizer.token_to_id(name) is not None]
        self.tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in known])
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.vocabulary = tokenizer.get_vocab_size() if vocabulary is None else vocabulary
        self.image_id = self._id(config.image)
        self.frame_id = None if config.frame is None else self._id(config.frame)
        self.bos_id = None if config.bos is None else self._id(config.bos)
        self.eos_id = self._id(config.eos)
        self.pad_id = 0 if config.pad is None else self._id(config.pad)

    def __call__(
        self,
        samples: Sequence[Sample],
        *,
        add_generation_prompt: bool = False,
        learn: Learn | None = None,
        options: Options | Sequence[Options | None] | None = None,
    ) -> Batch:
        """One row for each sample, shorter ones filled up on the right (segment 0).

        `add_generation_prompt` ends each conversation with `Assistant:`, ready for an answer. `learn` adds targets:
        those of `answers` (the assistant's words with their leading space, its end of utterance, and the end of the
        text; a plain document has none), or of `everything` (all but image tokens). `options` are for all samples, or
        one for each. Pictures are read by as many threads as torch uses. Raises ValueError that names the sample and
        the picture at fault.
        """
        return self.collate(self.encode_all(samples, add_generation_prompt, learn, options))

    def encode_all(
        self,
        samples: Sequence[Sample],
        add_generation_prompt: bool = False,
        learn: Learn | None = None,
        options: Options | Sequence[Options | None] | None = None,
    ) -> list[Encoded]:
        """Each sample as ids and patches; see `__call__`."""
        if isinstance(samples, Sample):
            raise ValueError("give a list of samples, not one sample")
        each = [options] * len(samples) if options is None or isinstance(options, Options) else list(options)
        if len(each) != len(samples):
            raise ValueError(f"{len(each)} options were given for {len(samples)} samples")

        threads = torch.get_num_threads()

        def one(job: tuple[int, Sample, Options | None]) -> Encoded:
            number, sample, chosen = job
            try:
                return self._encode(sample, add_generation_prompt, learn, chosen, threads if len(samples) == 1 else 1)
            except ValueError as error:
                raise ValueError(f"sample {number}: {error}" if len(samples) > 1 else str(error)) from error

        return _each(one, list(zip(range(len(samples)), samples, each, strict=True)), threads)

    def encode(
        self,
        sample: Sample,
        add_generation_prompt: bool = False,
        learn: Learn | None = None,
        options: Options | None = None,
    ) -> Encoded:
        """One sample as ids and patches; see `__call__`."""
        return self._encode(sample, add_generation_prompt, learn, options, torch.get_num_threads())

    def _encode(
        self, sample: Sample, add_generation_prompt: bool, learn: Learn | None, options: Options | None, threads: int
    ) -> Encoded:
        if learn is not None and add_generation_prompt:
            raise ValueError("a sample to learn from has its answer: it takes no generation prompt")
        if not sample.messages:
            raise ValueError("the sample is empty")
        spans = render(sample, add_generation_prompt, self.config.end_of_utterance)
        if learn is not None and sample.messages[-1].role not in DOCUMENTS:
            spans = spans[:-1]  # the newline behind the last utterance is not part of what is learned from
        seen = self._see(sample.pictures, options or Options(), threads)
        counts = (list(self.placeholders(torch.tensor(picture.grid))) for picture in seen)
        tokens, learned = self._tokens(spans, counts, learn)
        if learn is not None:
            answered = sample.messages[-1].role in (*DOCUMENTS, "assistant")
            tokens.append(self.eos_id)
            learned.append(learn == "everything" or (answered and any(learned)))
        patches = [some for picture in seen for some in picture.patches]
        grid = [size for picture in seen for size in picture.grid]
        return Encoded(tokens, learned if learn is not None else None, patches, grid)

    def collate(self, encoded: Sequence[Encoded]) -> Batch:
        """Encoded samples as a batch, one row each."""
        if not encoded:
            raise ValueError("no samples were given")
        width = max(len(e.tokens) for e in encoded)
        shape = (len(encoded), width)
        tokens, segments = torch.full(shape, self.pad_id), torch.zeros(shape, dtype=torch.long)
        positions, targets = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORE)
        for row, e in enumerate(encoded):
            length = len(e.tokens)
            tokens[row, :length] = torch.tensor(e.tokens)
            segments[row, :length] = 1
            positions[row, :length] = torch.arange(length)
            if e.learned is not None:
                known = torch.tensor(e.learned[1:], dtype=torch.bool)
                targets[row, : length - 1] = tokens[row, 1:length].where(known, IGNORE)
        patches = [some for e in encoded for some in e.patches]
        images = None
        if patches:
            grid = torch.tensor([size for e in encoded for size in e.grid])
            images = Images(normalise(patches, self.config.mean, self.config.std), grid)
        learning = any(e.learned is not None for e in encoded)
        return Batch(tokens, segments, positions, targets if learning else None, images)

    def plan(self, sizes: Sequence[tuple[int, int]], options: Options | None = None) -> list[list[Piece]]:
        """The pieces that the model sees of each picture of a sample, given their widths and heights (not `scales`)."""
        chosen = options or Options()
        assert not chosen.scales
        config = _chosen(self.config.images, chosen)
        if chosen.max_visual_tokens is not None:
            config = self._within(config, list(sizes), chosen.max_visual_tokens)
        return [config.build().plan(*size) for size in sizes]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, control tokens left out."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    @property
    def ends(self) -> list[int]:
        """Ids that end an answer."""
        found = [self.tokenizer.token_to_id(name) for name in self.config.ends]
        return [i for i in found if i is not None and i < self.vocabulary]

    @property
    def never_written(self) -> list[int]:
        """Ids that an answer never holds: the image token and its frame."""
        return [i for i in (self.image_id, self.frame_id) if i is not None]

    def _id(self, name: str) -> int:
        found = self.tokenizer.token_to_id(name)
        if found is None or found >= self.vocabulary:
            has = "is not in the tokenizer" if found is None else f"has id {found}, beyond the model's rows"
            hint = ""
            if name == self.config.end_of_utterance:
                hint = ": this is a base model, which knows no chat; use Sample.from_text (`vlmlab complete`)"
            raise ValueError(f"the control token {name} {has} ({self.vocabulary}){hint}")
        return found

    def _see(self, pictures: Sequence[Picture], options: Options, threads: int) -> list[Seen]:
        """The pictures of one sample, cut. Without a token budget each is decoded, cut and dropped on its own."""
        config = _chosen(self.config.images, options)
        scales = options.scales or (1.0,) * len(pictures)
        if len(scales) != len(pictures):
            raise ValueError(f"{len(scales)} scales were given for {len(pictures)} pictures")

        def opened(picture: Picture) -> PIL.Image.Image:
            return open_picture(picture, self.fetch, self.config.max_pixels)

        if options.max_visual_tokens is None:
            scaled = list(zip(pictures, scales, strict=True))
            return _each(lambda one: self._cut(opened(one[0]), config, one[0].name, one[1]), scaled, threads)
        images = _each(opened, pictures, threads)
        sizes = [_scaled(image.size, scale) for image, scale in zip(images, scales, strict=True)]
        config = self._within(config, sizes, options.max_visual_tokens)
        named = list(zip(images, (picture.name for picture in pictures), scales, strict=True))
        return _each(lambda one: self._cut(one[0], config, one[1], one[2]), named, threads)

    def _cut(self, image: PIL.Image.Image, config: StrategyConfig, name: str, scale: float) -> Seen:
        try:
            plan = config.build().plan(*_scaled(image.size, scale))
            if scale != 1:  # what is cut out is cut out of the picture as it is
                plan = [Piece(_shrunk(piece.box, scale, image.size), piece.size) for piece in plan]
            pieces = [cut(image, piece, self.config.patch) for piece in plan]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return Seen([patches for patches, _ in pieces], [size for _, size in pieces])

    def _within(self, config: StrategyConfig, sizes: list[tuple[int, int]], limit: int) -> StrategyConfig:
        """The first strategy, from the one asked for to ever cheaper ones, whose image tokens fit the limit."""
        least = None
        for cheaper in _cheaper(config, self.config.patch):
            needed = sum(self._count(cheaper, size) for size in sizes)
            if needed <= limit:
                return cheaper
            least = needed if least is None else min(least, needed)
        raise ValueError(f"the pictures need at least {least} visual tokens; {limit} are allowed")

    def _count(self, config: StrategyConfig, size: tuple[int, int]) -> int:
        """Image tokens of one picture of so many pixels."""
        patch = self.config.patch
        grid = [(max(h // patch, 1), max(w // patch, 1)) for _, (w, h) in config.build().plan(*size)]
        return sum(self.placeholders(torch.tensor(grid)))

    def _tokens(
        self, spans: Iterable[Span], counts: Iterator[list[int]], learn: Learn | None
    ) -> tuple[list[int], list[bool]]:
        """Ids of a rendered sample, and whether each is learned. Neighbouring texts are read as one."""
        tokens: list[int] = [] if self.bos_id is None else [self.bos_id]
        learned: list[bool] = [False] * len(tokens)
        text: list[tuple[str, bool]] = []

        def flush() -> None:
            whole = "".join(piece for piece, _ in text)
            if whole:
                encoding = self.tokenizer.encode(_unicode(whole), add_special_tokens=False)
                marks = [answer for piece, answer in text for _ in piece]
                tokens.extend(encoding.ids)
                learned.extend(
                    learn == "everything" or marks[min(start, len(marks) - 1)] for start, _ in encoding.offsets
                )
            text.clear()

        for kind, value, answer in spans:
            if isinstance(value, Picture):
                flush()
                for count in next(counts):
                    self._picture(tokens, learned, count, learn == "everything")
            elif kind == "control":
                flush()
                tokens.append(self._id(value))
                learned.append(learn == "everything" or answer)
            else:
                text.append((value, answer))
        flush()
        return tokens, learned

    def _picture(self, tokens: list[int], learned: list[bool], count: int, frames_learned: bool) -> None:
        """The tokens of one image: its frame around its placeholders. Neighbouring images share a frame."""
        if self.frame_id is None:
            tokens += [self.image_id] * count
            learned += [False] * count
            return
        if not tokens or tokens[-1] != self.frame_id:
            tokens.append(self.frame_id)
            learned.append(frames_learned)
        tokens += [*[self.image_id] * count, self.frame_id]
        learned += [*[False] * count, frames_learned]


def _each(function: Callable[[Given], Made], things: Sequence[Given], threads: int) -> list[Made]:
    """`function` of each, in order, in so many threads (8 at most): decoding and resizing a picture let others run.

    The first error, in order, is raised; what had not begun by then is not begun.
    """
    threads = min(threads, len(things), 8)
    if threads < 2:
        return [function(thing) for thing in things]
    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(function, things))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """So many times a width and height, in whole pixels."""
    return (size[0], size[1]) if scale == 1 else (max(round(size[0] * scale), 1), max(round(size[1] * scale), 1))


def _shrunk(box: tuple[int, int, int, int], scale: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box of the scaled picture in the picture itself: at least one pixel, inside it."""
    left, top = (min(round(start / scale), side - 1) for start, side in zip(box[:2], size, strict=True))
    right, bottom = (min(max(round(end / scale), 1), side) for end, side in zip(box[2:], size, strict=True))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _cheaper(config: StrategyConfig, patch: int) -> Iterator[StrategyConfig]:
    """A strategy, then without splitting, then with ever lower limits, of the same shape, down to one patch."""
    yield config
    if isinstance(config, split.Config):
        config = native.Config(config.longest, config.shortest)
        yield config
    if isinstance(config, native.Config):
        for longest in range((config.longest - 1) // patch * patch, patch - 1, -patch):
            yield native.Config(longest, max(patch, longest * config.shortest // config.longest))


def _chosen(config: StrategyConfig, options: Options) -> StrategyConfig:
    """The strategy of a model with a request's options applied. Raises ValueError for limits on a fixed square."""
    config = options.images or config
    if options.split is not None and isinstance(config, split.Config) != options.split:
        if not isinstance(config, native.Config | split.Config):
            raise ValueError("this model reads pictures as fixed squares: it cannot split them")
        kind = split.Config if options.split else native.Config
        config = kind(longest=config.longest, shortest=config.shortest)
    if options.longest is not None or options.shortest is not None:
        if not isinstance(config, native.Config | split.Config):
            raise ValueError("this model reads pictures as fixed squares: longest and shortest do not apply")
        longest = config.longest if options.longest is None else options.longest
        shortest = min(config.shortest, longest) if options.shortest is None else options.shortest
        config = dataclasses.replace(config, longest=longest, shortest=shortest)
    return config


def _unicode(text: str) -> str:
    """The text. Raises ValueError where it holds half a character, which JSON can say and no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise ValueError(f"the text holds half a character, {half}: it is no Unicode; leave it out") from None
    return text
