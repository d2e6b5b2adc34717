"""What we export is trained by transformers' Trainer and by TRL, with PEFT, and comes back with equal logits."""

import contextlib
from pathlib import Path
from typing import Any

import peft
import PIL.Image
import pytest
import torch
import transformers

import vlmlab
from hub import tiny
from model.tiny import far
from vlmlab.hub.export import export
from vlmlab.hub.load import load_model
from vlmlab.model import adapters
from vlmlab.processor.images import square
from vlmlab.processor.processor import Config, Processor


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    model = load_model(tiny.save(tiny.build(), tmp_path / "made"))
    processor = Processor(
        Config(patch=model.config.vision.patch, images=square.Config(side=56)), tiny.tokenizer(), model.placeholders, 64
    )
    return export((model, processor), tmp_path / "base")


def rows() -> list[dict[str, Any]]:
    """Samples as transformers wants them: pictures padded, what is not learned -100."""
    made = []
    for tokens, pixels in tiny.documents(14, 3)[:2] * 4:
        row = {
            key: value[0] for key, value in tiny.for_them(tokens, pixels[:1] * (2 if len(pixels) > 1 else 1)).items()
        }
        row["labels"] = torch.where(row["input_ids"] == tiny.IMAGE, -100, row["input_ids"])
        made.append(row)
    return made


def one(batch: list[dict[str, Any]]) -> dict[str, Any]:
    (row,) = batch
    return {key: value[None] for key, value in row.items()}


def comes_back(base: Path, adapter: Path, trained: Any) -> None:
    """The base and its adapter, read by us, give the trained model's logits; the base alone does not."""
    ours, _ = vlmlab.load(base, adapter=adapter)
    assert adapters.names(ours) == ["default"]
    for tokens, pixels in tiny.documents(14, 3):
        with torch.no_grad():
            found = ours(tiny.for_us(tokens, pixels, 14))
            plain = load_model(base)(tiny.for_us(tokens, pixels, 14))
        theirs = tiny.logits(trained, tokens, pixels)
        assert far(found, theirs) < 1e-5 < 1e-2 < far(plain, theirs)


@pytest.mark.parametrize("dora", [False, True])
def test_transformers_trains_what_we_export_and_it_comes_back(exported: Path, dora: bool, tmp_path: Path) -> None:
    base = transformers.AutoModelForImageTextToText.from_pretrained(exported)
    how = peft.LoraConfig(r=4, lora_alpha=8, use_dora=dora, target_modules=["q_proj", "v_proj", "down_proj", "fc1"])
    model = peft.get_peft_model(base, how)
    settings = transformers.TrainingArguments(
        output_dir=tmp_path / "run",
        max_steps=2,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        learning_rate=0.1,
        warmup_steps=0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        remove_unused_columns=False,
    )
    trainer = transformers.Trainer(model=model, args=settings, train_dataset=rows(), data_collator=one)
    with contextlib.redirect_stdout(None):
        trainer.train()
    assert trainer.state.global_step == 2
    trainer.save_model(tmp_path / "adapter")
    trained = trainer.model.eval()
    comes_back(exported, tmp_path / "adapter", trained)
    merged = trained.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = load_model(tmp_path / "merged").requires_grad_(False)
    tokens, pixels = tiny.documents(14, 3)[0]
    assert far(again(tiny.for_us(tokens, pixels, 14)), tiny.logits(merged, tokens, pixels)) < 1e-5


def test_trl_trains_what_we_export_without_its_first_token(exported: Path, tmp_path: Path) -> None:
    """TRL tokenises the rendered chat without special tokens: its samples lack the `<s>` that weights know."""
    import datasets
    import trl

    pictures = [PIL.Image.new("RGB", (56, 56), (40 * at, 90, 200 - 40 * at)) for at in range(4)]
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "w5 w6"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "w7 w8"}]},
    ]
    settings = trl.SFTConfig(
        output_dir=str(tmp_path / "run"),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=0.1,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        max_length=None,
    )
    processor = transformers.AutoProcessor.from_pretrained(exported)
    trainer = trl.SFTTrainer(
        model=transformers.AutoModelForImageTextToText.from_pretrained(exported),
        args=settings,
        train_dataset=datasets.Dataset.from_list([{"messages": messages, "images": [p]} for p in pictures]),
        processing_class=processor,
        peft_config=peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]),
    )
    theirs = next(iter(trainer.get_train_dataloader()))["input_ids"][0].tolist()
    ours = vlmlab.load(exported)[1]([vlmlab.Sample.from_messages(messages, pictures[:1])]).tokens[0].tolist()
    assert ours == [processor.tokenizer.bos_token_id, *theirs]
    processor.chat_template = "{{ bos_token }}" + processor.chat_template
    assert next(iter(trainer.get_train_dataloader()))["input_ids"][0].tolist() == ours
    with contextlib.redirect_stdout(None):
        trainer.train()
    assert trainer.state.global_step == 2
    trainer.save_model(str(tmp_path / "adapter"))
    comes_back(exported, tmp_path / "adapter", trainer.model.eval())
