"""PEFT's files: what we write, PEFT loads onto the exported model, and the other way round, with equal logits."""

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

import vlmlab
from hub import tiny
from model import tiny as models
from vlmlab.hub import adapters as files
from vlmlab.hub import named
from vlmlab.hub.export import export
from vlmlab.hub.load import load_model
from vlmlab.model import adapters
from vlmlab.model.adapters import Config
from vlmlab.model.vlm import VLM
from vlmlab.processor.processor import Config as ProcessorConfig
from vlmlab.processor.processor import Processor


def shake(parameters: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in parameters:
            value.add_(0.1 * torch.randn(value.shape, generator=generator))


def pair(folder: Path, shape: int = 0) -> tuple[transformers.PreTrainedModel, VLM]:
    """A tiny Idefics2 of transformers' and the same of ours."""
    theirs = tiny.build(tiny.SHAPES[shape])
    ours = load_model(tiny.save(theirs, folder / "base"))
    torch.manual_seed(shape)  # adapters are drawn next: an odd draw makes much of their single precision
    return theirs, ours


def agree(ours: VLM, theirs: Any, bound: float = 1e-5) -> None:
    """Equal logits: ours in double precision, theirs too but for the norms and the softmax, which stay single."""
    ours, theirs = copy.deepcopy(ours).double(), copy.deepcopy(theirs).double()
    patch, latents = ours.config.vision.patch, ours.config.connector.latents
    for tokens, pixels in tiny.documents(patch, latents):
        with torch.no_grad():
            found = ours(tiny.for_us(tokens, pixels, patch).to(dtype=torch.float64))
        assert models.far(found, tiny.logits(theirs, tokens, pixels)) < bound


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text())


PARTS: list[dict[str, Config]] = [
    {"language": Config("lora", 3, 6.0, targets=("q_proj", "v_proj"))},
    {
        "vision": Config("dora", 2, 4.0, targets=("fc1", "out_proj")),
        "connector": Config("dora", 4, 4.0),
        "language": Config("dora", 3, 9.0),
    },
    {"connector": Config("lora", 3, 6.0, rslora=True, targets=("k_proj", "projection.gate", "layers.0.mlp.up"))},
    {"language": Config("lora", 2, 2.0, targets=("lm_head", "mlp.down"))},
]


@pytest.mark.parametrize("shape", range(len(tiny.SHAPES)))
@pytest.mark.parametrize("parts", PARTS, ids=lambda p: "-".join(p))
def test_peft_reads_what_we_write(parts: dict[str, Config], shape: int, tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path, shape)
    for part, how in parts.items():
        targets = [t for t in how.targets if t != "lm_head" or "tie_word_embeddings" not in tiny.SHAPES[shape]]
        adapters.add(ours, named.resolve(ours, part, targets), how)
    shake(adapters.learned(ours).values())
    files.save(ours, tmp_path / "adapter", "somewhere/base")
    loaded = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    agree(ours, loaded)
    adapted = [name for name, _ in loaded.named_modules() if name.endswith(".lora_A")]
    assert len(adapted) == len(adapters.layers(ours))
    assert config(tmp_path / "adapter")["base_model_name_or_path"] == "somewhere/base"
    again = load_model(tmp_path / "base")
    files.read(again, tmp_path / "adapter")
    first, second = adapters.learned(ours), adapters.learned(again)
    assert first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)
    agree(again, loaded)


THEIRS: list[dict[str, Any]] = [
    {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1},
    {"target_modules": "all-linear", "use_dora": True, "init_lora_weights": "gaussian"},
    {
        # The regular expression of the published fine-tunings.
        "target_modules": r".*(text_model|modality_projection|perceiver_resampler).*(down_proj|gate_proj|up_proj|"
        r"k_proj|q_proj|v_proj|o_proj).*$",
        "r": 8,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "use_dora": True,
        "init_lora_weights": "gaussian",
    },
    {
        "target_modules": ["q_proj", "k_proj", "up_proj"],
        "use_rslora": True,
        "rank_pattern": {"up_proj": 2, r"text_model\.layers\.0\.self_attn\.q_proj": 5},
        "alpha_pattern": {"k_proj": 3},
    },
    {
        "target_modules": ["v_proj"],
        "modules_to_save": ["modality_projection", "perceiver_resampler", "patch_embedding"],
    },
]


@pytest.mark.parametrize("shape", [0, 2])
@pytest.mark.parametrize("settings", THEIRS, ids=lambda s: ",".join(s))
def test_we_read_what_peft_writes(settings: dict[str, Any], shape: int, tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path, shape)
    made = peft.get_peft_model(theirs, peft.LoraConfig(**settings)).eval()
    shake(p for p in made.parameters() if p.requires_grad)
    made.save_pretrained(tmp_path / "adapter")
    files.read(ours, tmp_path / "adapter")
    agree(ours, made)
    adapters.fold(ours)
    agree(ours, made.merge_and_unload())


@pytest.mark.parametrize("shape", [0, 2])
@pytest.mark.parametrize("whole", [["connector"], ["vision", "connector"], ["language.norm", "language.embedding"]])
def test_what_was_trained_in_full_travels_too(whole: list[str], shape: int, tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path, shape)
    adapters.add(ours, named.resolve(ours, "language", ["q_proj"]), Config())
    shake(adapters.learned(ours).values())
    shake(p for name, p in ours.named_parameters() if any(f"{name}.".startswith(f"{w}.") for w in whole))
    files.save(ours, tmp_path / "adapter", whole=whole)
    agree(ours, peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval())
    again = load_model(tmp_path / "base")
    files.read(again, tmp_path / "adapter")
    for name, tensor in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_an_exported_model_has_it_in_its_weights(tmp_path: Path) -> None:
    _, ours = pair(tmp_path)
    adapters.add(ours, named.resolve(ours, "language", []), Config("dora", 4))
    shake(adapters.learned(ours).values())
    processor = Processor(ProcessorConfig(patch=ours.config.vision.patch), tiny.tokenizer(), ours.placeholders, 64)
    out = export((ours, processor), tmp_path / "out")
    agree(ours, transformers.Idefics2ForConditionalGeneration.from_pretrained(out).eval())
    files.save(ours, tmp_path / "adapter")
    beside, _ = vlmlab.load(
        export((load_model(tmp_path / "base"), processor), tmp_path / "plain"), adapter=tmp_path / "adapter"
    )
    assert adapters.names(beside) == ["default"]
    agree(ours, transformers.Idefics2ForConditionalGeneration.from_pretrained(out).eval())
    for tokens, pixels in tiny.documents(14, 3):
        batch = tiny.for_us(tokens, pixels, 14)
        assert torch.equal(beside(batch), ours(batch))


def test_a_file_for_shipping_is_half_the_size(tmp_path: Path) -> None:
    _, ours = pair(tmp_path)
    adapters.add(ours, named.resolve(ours, "language", []), Config())
    shake(adapters.learned(ours).values())
    files.save(ours, tmp_path / "whole", whole=["connector"])
    files.save(ours, tmp_path / "half", whole=["connector"], dtype=torch.bfloat16)
    whole, half = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "half"))
    assert whole.keys() == half.keys()
    assert {tensor.ndim for tensor in whole.values()} == {1, 2}
    for name, tensor in whole.items():  # vectors are few, and count for whole rows
        assert torch.equal(half[name], tensor.bfloat16() if tensor.ndim > 1 else tensor), name
    again = load_model(tmp_path / "base")
    files.read(again, tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in again.parameters())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported; known: LORA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' changes the base's weights"),
        ({"bias": "all"}, 'bias = "all" is not supported'),
        ({"lora_bias": True}, "lora_bias = true is not supported"),
        ({"trainable_token_indices": [3]}, r"trainable_token_indices = [3] is not supported"),
        ({"layer_replication": [[0, 2]]}, "layer_replication = "),
        ({"invented": 3}, "invented = 3 is not supported"),
        ({"r": 5}, "are [4, 24] and [32, 4], not of rank 5"),
        ({"use_dora": True}, "self_attn.q_proj is missing"),
        ({"alpha_pattern": {"(": 3}}, "alpha_pattern: '(' is no pattern"),
        *(
            ({"rank_pattern": {pattern: 3}}, "is too intricate to be looked for in names")
            for pattern in ("(.+)+x", ".*.*.*.*x", ".?" * 30 + "!", "(..|.)" * 26 + "!", "(?x:(.+) +)!", "(a*)?x")
        ),
    ],
)
def test_what_we_would_have_to_ignore_is_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path)
    made = peft.get_peft_model(theirs, peft.LoraConfig(r=4, target_modules=["q_proj"]))
    made.save_pretrained(tmp_path / "adapter")
    made_of = config(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**made_of, **changes}))
    assert set(changes) <= set(made_of) | {"invented"}
    with pytest.raises(ValueError) as error:
        files.read(ours, tmp_path / "adapter")
    assert told in str(error.value) and str(tmp_path) in str(error.value)
    assert not adapters.layers(ours)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path)
    with pytest.raises(ValueError, match=r"base is no adapter of PEFT's: it has no adapter_config\.json"):
        files.read(ours, tmp_path / "base")
    made = peft.get_peft_model(theirs, peft.LoraConfig(r=4, target_modules=["q_proj"]))
    made.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"it holds .*q_proj.*no linear layer here .*the nearest: model\.text_model"):
        files.read(models.build(connector="linear"), tmp_path / "adapter")
    with pytest.raises(
        ValueError, match=r"connector\.layers\.0\.attention\.q is .*, but its adapter is for \[32, 24\]"
    ):
        files.read(models.build(), tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(ValueError, match="Python pickle only"):
        files.read(ours, tmp_path / "adapter")


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (["qproj"], r"no linear layer of the language is called 'qproj'; the nearest: .*q_proj"),
        (["attention.q", "fc1"], "no linear layer of the language is called 'fc1'"),
        (["norm"], "no linear layer of the language is called 'norm'"),
    ],
)
def test_an_adapter_that_matches_nothing_names_the_nearest(targets: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        named.resolve(models.build(), "language", targets)


def test_targets_in_either_words() -> None:
    model = models.build()
    q = [f"language.layers.{n}.attention.q" for n in range(4)]
    assert named.resolve(model, "language", ["q_proj"]) == q == named.resolve(model, "language", ["attention.q"])
    assert named.resolve(model, "language", ["model.text_model.layers.1.self_attn.q_proj"]) == [q[1]]
    every = named.resolve(model, "language", [])
    assert len(every) == 4 * 7 and named.resolve(model, "language", ["lm_head"]) == ["language.output"]
    assert "vision.patch" not in named.resolve(model, "vision", [])
    adapters.add(model, q, Config())
    assert named.resolve(model, "language", ["q_proj"]) == q and named.resolve(model, "language", []) == every
    with pytest.raises(ValueError, match="the fusion of this model has no linear layers"):
        named.resolve(model, "fusion", [])
    crossed = models.build(fusion="cross_attention", connector="linear", vision="clip")
    assert "fusion.blocks.0.attention.q" in named.resolve(crossed, "fusion", ["attention.q"])
    assert named.resolve(crossed, "connector", []) == ["connector.mix", "connector.projection"]
    assert named.modules(model, "language", ["norm", "input_layernorm"])[:2] == [
        "language.layers.0.attention_norm",
        "language.layers.1.attention_norm",
    ]
    assert named.modules(model, "language", ["embed_tokens"]) == ["language.embedding"]
    with pytest.raises(ValueError, match="no module that is not adapted of the language is called 'q_proj'"):
        named.modules(model, "language", ["q_proj"])


def test_models_that_transformers_does_not_know_keep_our_names(tmp_path: Path) -> None:
    model = models.build(fusion="cross_attention", connector="linear", vision="clip")
    for part in ("connector", "fusion"):
        adapters.add(model, named.resolve(model, part, []), Config())
    shake(adapters.learned(model).values())
    files.save(model, tmp_path)
    again = models.build(fusion="cross_attention", connector="linear", vision="clip")
    files.read(again, tmp_path)
    batch = models.lay(model, [[[1, models.picture(3, 4), 5, 6]]])[0]
    assert torch.equal(again(batch), model(batch))
