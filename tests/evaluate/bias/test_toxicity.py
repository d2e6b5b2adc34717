"""A classifier in ONNX: a tiny one made here, whose answer can be worked out by hand."""

import json
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from vlmlab.evaluate.bias.toxicity import Toxicity

LOGITS = {"nice": (2.0, -1.0), "awful": (-1.0, 3.0), "[UNK]": (0.0, 0.0)}


def classifier(folder, labels=("non-toxic", "toxic"), problem="single_label_classification", place="model.onnx"):
    """Its logits are the sum of those of its words."""
    words = list(LOGITS)
    table = numpy_helper.from_array(np.array(list(LOGITS.values()), dtype=np.float32), "table")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axis"], ["logits"], keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]) for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 2])]
    held = [table, *(numpy_helper.from_array(np.array([n], dtype=np.int64), k) for k, n in (("last", 2), ("axis", 1)))]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / place).parent.mkdir(exist_ok=True)
    onnx.save(model, folder / place)
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"id2label": {str(at): name for at, name in enumerate(labels)}, "problem_type": problem}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("place", ["model.onnx", "onnx/model.onnx"])
def test_one_class_of_two_is_a_share(tmp_path, place):
    judge = Toxicity(classifier(tmp_path, place=place))
    nice, awful = judge(["nice", "awful awful"])
    assert nice == pytest.approx(math.exp(-1) / (math.exp(2) + math.exp(-1)), rel=1e-5)
    assert awful == pytest.approx(math.exp(6) / (math.exp(-2) + math.exp(6)), rel=1e-5)


def test_classes_that_do_not_exclude_each_other_are_judged_alone(tmp_path):
    judge = Toxicity(classifier(tmp_path, ("obscene", "toxic"), "multi_label_classification"))
    assert judge(["awful"]) == pytest.approx([1 / (1 + math.exp(-3))], rel=1e-5)


def test_the_class_may_have_another_name(tmp_path):
    folder = classifier(tmp_path, ("LABEL_0", "LABEL_1"))
    with pytest.raises(ValueError, match="its classes: LABEL_0, LABEL_1"):
        Toxicity(folder)
    assert Toxicity(folder, "label_1")(["awful"])[0] > 0.9


def test_a_text_longer_than_the_classifier_reads_is_cut(tmp_path):
    judge = Toxicity(classifier(tmp_path))
    assert judge(["nice " * 512 + "awful " * 2000])[0] < 1e-6


def test_what_a_folder_lacks_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"no model\.onnx"):
        Toxicity(tmp_path)
    classifier(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        Toxicity(tmp_path)


@pytest.mark.parametrize(
    ("file", "data", "told"),
    [
        ("model.onnx", b"garbage", r"model\.onnx cannot be read by onnxruntime"),
        ("model.onnx", b"", r"model\.onnx cannot be read by onnxruntime"),
        ("tokenizer.json", b"{}", r"tokenizer\.json cannot be read"),
        ("config.json", b'{"id2label": 3}', r"config\.json: id2label should hold"),
        ("config.json", b'{"id2label": {"x": "toxic"}}', r"config\.json: id2label should hold"),
        ("config.json", b'{"id2label": {"0": 3}}', r"config\.json: id2label should hold"),
    ],
)
def test_a_file_that_is_damaged_is_named(tmp_path, file, data, told):
    (classifier(tmp_path) / file).write_bytes(data)
    with pytest.raises(ValueError, match=told):
        Toxicity(tmp_path)
