"""The settings of a hub folder's processor: tokenizer, pictures, and the tokens that end an answer."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Tokenizer

from vlmlab import component, writing
from vlmlab.hub import files
from vlmlab.model.vlm import VLMConfig
from vlmlab.processor.processor import Config

IMAGE, FRAME, END = "<image>", "<fake_token_around_image>", "<end_of_utterance>"
BILINEAR = 2


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, with the tokens that its settings add. Raises ValueError naming the file."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no tokenizer.json (load_model reads the weights of a model without one)")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise ValueError(f"{path} cannot be read by tokenizers {tokenizers.__version__}: {error}") from None
    added = _optional(folder, "tokenizer_config.json").get("added_tokens_decoder", {})
    for number in sorted(added, key=int):
        content = added[number]["content"]
        if tokenizer.token_to_id(content) is None and int(number) == tokenizer.get_vocab_size():
            tokenizer.add_special_tokens([AddedToken(content, special=True, normalized=False)])
    return tokenizer


def read(folder: Path, tokenizer: Tokenizer, model: VLMConfig) -> Config:
    """The processor's config of an Idefics2 folder. Raises ValueError naming the file and the setting."""
    marks = _control_tokens(folder, tokenizer, model)
    path = folder / "preprocessor_config.json"
    # transformers 5 keeps the pictures' settings inside the processor's, where the first does not exist.
    pictures = _optional(folder, path.name) or _optional(folder, "processor_config.json").get("image_processor", {})
    if not pictures:
        raise ValueError(f"{folder} has no {path.name} (load_model reads the weights of a model without one)")
    try:
        return component.parse(Config, {"patch": model.vision.patch, **_pictures(pictures), **marks}, "processor")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _pictures(data: Mapping[str, Any]) -> dict[str, Any]:
    for key, only in (("do_resize", True), ("do_rescale", True), ("do_convert_rgb", True), ("resample", BILINEAR)):
        if data.get(key, only) not in (only, None):
            raise ValueError(f"{key} = {data[key]!r} is not supported; {only!r} is")
    if not math.isclose(data.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise ValueError(f"rescale_factor = {data['rescale_factor']!r} is not supported; 1/255 is")
    size = data.get("size", {"longest_edge": 980, "shortest_edge": 378})
    if "longest_edge" in size:
        kind = "split" if data.get("do_image_splitting", False) else "native"
        images = {"name": kind, "longest": size["longest_edge"], "shortest": size["shortest_edge"]}
    elif size.get("height") == size.get("width") is not None and not data.get("do_image_splitting", False):
        images = {"name": "square", "side": size["height"]}
    else:
        raise ValueError(f"size = {size!r} is not supported; longest_edge and shortest_edge, or one square, are")
    normal = data.get("do_normalize", True)
    mean = data.get("image_mean", [0.5] * 3) if normal else [0.0] * 3
    std = data.get("image_std", [0.5] * 3) if normal else [1.0] * 3
    return {"images": images, "mean": mean, "std": std}


def _control_tokens(folder: Path, tokenizer: Tokenizer, model: VLMConfig) -> dict[str, Any]:
    settings, generation = (_optional(folder, f"{name}_config.json") for name in ("tokenizer", "generation"))
    text = _optional(folder, "config.json").get("text_config", {})

    def named(kind: str, default: int | None) -> str | None:
        """A token's name: as the tokenizer's settings say, or by the id that other settings give."""
        value = settings.get(f"{kind}_token")
        if value is not None:
            return value["content"] if isinstance(value, Mapping) else value
        number = generation.get(f"{kind}_token_id", text.get(f"{kind}_token_id", default))
        number = number[0] if isinstance(number, list) and number else number
        return None if number is None else tokenizer.id_to_token(number)

    image = tokenizer.id_to_token(model.fusion.image_token)
    if image is None:
        raise ValueError(f"{folder}: image_token_id is {model.fusion.image_token}, which the tokenizer does not have")
    eos = named("eos", 2)
    if eos is None:
        raise ValueError(f"{folder}: neither tokenizer_config.json nor generation_config.json names the eos token")
    first = tokenizer.encode("").ids
    starts = tokenizer.id_to_token(first[0]) if first else None
    ends = generation.get("eos_token_id")
    ends = [ends] if isinstance(ends, int) else ends
    return {
        "image": image,
        "frame": FRAME if tokenizer.token_to_id(FRAME) is not None else None,
        "end_of_utterance": END,
        "bos": starts or (named("bos", 1) if settings.get("add_bos_token", False) else None),
        "eos": eos,
        "pad": named("pad", None),
        "ends": [eos, END] if ends is None else [t for t in map(tokenizer.id_to_token, ends) if t is not None],
    }


def write(folder: Path, config: Config, tokenizer: Tokenizer, model: VLMConfig) -> None:
    """Write what `read` and transformers' Idefics2Processor read: settings of pictures, tokens, chat and generation.

    `config` must be one that Idefics2 can have: see `export`.
    """
    ids = {name: None if t is None else tokenizer.token_to_id(t) for name, t in _tokens(config).items()}
    ends = [i for i in map(tokenizer.token_to_id, config.ends) if i is not None and i < model.language.vocabulary]
    writing.write(folder / "tokenizer.json", lambda partial: tokenizer.save(str(partial)))
    named = {f"{name}_token": token for name, token in _tokens(config).items() if token is not None}
    extra = [config.frame, config.image, config.end_of_utterance]
    files.write_json(folder / "special_tokens_map.json", {**named, "additional_special_tokens": extra})
    tokenizer_config = {
        "tokenizer_class": _tokenizer_class(tokenizer),
        "legacy": False,
        "add_bos_token": config.bos is not None,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": model.language.positions,
        "padding_side": "left",
        "processor_class": "Idefics2Processor",
        **named,
        "additional_special_tokens": extra,
    }
    files.write_json(folder / "tokenizer_config.json", tokenizer_config)
    files.write_json(folder / "preprocessor_config.json", _preprocessor(config))
    latents = component.plain(model.connector)["latents"]
    files.write_json(
        folder / "processor_config.json", {"processor_class": "Idefics2Processor", "image_seq_len": latents}
    )
    writing.write_text(folder / "chat_template.jinja", CHAT_TEMPLATE)
    files.write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    generation = {f"{name}_token_id": number for name, number in ids.items() if number is not None}
    never = [[tokenizer.token_to_id(FRAME)], [model.fusion.image_token]]
    files.write_json(folder / "generation_config.json", {**generation, "eos_token_id": ends, "bad_words_ids": never})


def _tokens(config: Config) -> dict[str, str | None]:
    return {"bos": config.bos, "eos": config.eos, "pad": config.pad}


def _preprocessor(config: Config) -> dict[str, Any]:
    images = component.plain(config.images)
    square = "side" in images
    edges = {"longest_edge": images["longest"], "shortest_edge": images["shortest"]} if not square else {}
    return {
        "image_processor_type": "Idefics2ImageProcessor",
        "processor_class": "Idefics2Processor",
        "do_convert_rgb": True,
        "do_image_splitting": images["name"] == "split",
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
        "resample": BILINEAR,
        "rescale_factor": 1 / 255,
        "size": edges or {"height": images["side"], "width": images["side"]},
    }


def _tokenizer_class(tokenizer: Tokenizer) -> str:
    """A tokenizer that puts a mark before words is Llama's, as the released one; any other is read as it stands."""
    normalizer = json.loads(tokenizer.to_str())["normalizer"] or {}
    steps = normalizer.get("normalizers", [normalizer])
    return "LlamaTokenizer" if any(step.get("type") == "Prepend" for step in steps) else "PreTrainedTokenizerFast"


CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].capitalize() }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}"
    "{% endfor %}"
    "{{ '<end_of_utterance>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""The chat that the released model was taught (model card), as a Jinja template."""


def _optional(folder: Path, name: str) -> dict[str, Any]:
    return files.read_json(folder / name) if (folder / name).is_file() else {}
