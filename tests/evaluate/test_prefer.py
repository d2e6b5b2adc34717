"""Blind preferences: hidden and shuffled sides, votes that survive, and what they come to; the page that takes them."""

import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request

import PIL.Image
import pytest

from evaluate import questions
from evaluate.questions import Sure, record
from vlmlab import cli
from vlmlab.evaluate.answering import Writing
from vlmlab.evaluate.judging import Judging
from vlmlab.evaluate.prefer import Config, Prompts, Votes, answers, pairs, result


def made(count=40, a="short", b="a longer answer", **changes):
    """Pairs of answers to so many prompts."""
    first = [record(n, None, answer=f"{a} {n}", **changes) for n in range(count)]
    return pairs(first, [record(n, None, answer=f"{b} {n}", **changes) for n in range(count)])


def nothing(pair):
    return []


def test_sides_and_order_are_shuffled_and_the_same_again():
    found = made()
    assert found == made()
    assert [pair.number for pair in found] != list(range(40))
    assert 10 <= sum(pair.swapped for pair in found) <= 30
    for pair in found:
        assert pair.left == (pair.b if pair.swapped else pair.a).answer
        assert {pair.winner("left"), pair.winner("right")} == {"a", "b"} and pair.winner("tie") == "tie"
        assert (pair.b.answer == pair.left) == (pair.winner("left") == "b")


def test_votes_survive_and_the_last_one_counts(tmp_path):
    one, other = made()[:2]
    votes = Votes(tmp_path)
    votes.give("anna", one, "left")
    votes.give("anna", other, "tie")
    votes.give("anna", one, "right")
    votes.give("bert", one, "tie")
    whole = votes.path.read_bytes()
    votes.path.write_bytes(whole + b'{"judge": "anna", "pa')  # cut off
    again = Votes(tmp_path)
    assert again.given == {("anna", one.key): "right", ("anna", other.key): "tie", ("bert", one.key): "tie"}
    assert again.left("bert", [one, other]) == [other] and again.left("anna", [one, other]) == []
    again.give("bert", other, "left")
    assert len(Votes(tmp_path).given) == 4


BROKEN = ["{", "3", '{"side": "up", "judge": "a", "pair": "b"}', '{"side": "tie", "pair": "b"}']


@pytest.mark.parametrize("line", BROKEN)
def test_votes_that_cannot_be_read_are_named(tmp_path, line):
    votes = Votes(tmp_path)
    votes.give("anna", made()[0], "left")
    votes.path.write_text(votes.path.read_text() + line + "\n" + votes.path.read_text())
    with pytest.raises(ValueError, match=r"votes.jsonl, line 2: cannot be read"):
        Votes(tmp_path)


def test_what_votes_come_to(tmp_path):
    found, votes = made(), Votes(tmp_path)
    for at, pair in enumerate(found):  # B wins 20, A 10, ties 10
        winner = "b" if at < 20 else "a" if at < 30 else "tie"
        side = "tie" if winner == "tie" else "left" if (winner == "b") == pair.swapped else "right"
        votes.give("anna", pair, side)
    told = result(found, votes)
    assert (told.wins, told.losses, told.ties, told.votes, told.same) == (20, 10, 10, 40, 0)
    assert told.rate.value == 0.625 and told.rate.low < 0.625 < told.rate.high
    assert told.longer.value == pytest.approx(20 / 30) and told.when_longer.value == 0.625
    assert told.when_shorter is None and told.lengths[0] < told.lengths[1]
    left = sum(votes.given["anna", pair.key] == "left" for pair in found)
    assert told.on_the_left.value == pytest.approx(left / 30)
    assert told.lines()[0].startswith("B wins 62.5 % [")


def test_who_always_takes_the_longer_or_the_left_is_found_out(tmp_path):
    first = [record(n, None, answer="x" * (5 + n % 2 * 10)) for n in range(40)]
    second = [record(n, None, answer="y" * (5 + (n + 1) % 2 * 10)) for n in range(40)]
    found = pairs(first, second)
    length, side = Votes(tmp_path / "length"), Votes(tmp_path / "side")
    for pair in found:
        length.give("x", pair, "left" if len(pair.left) > len(pair.right) else "right")
        side.give("x", pair, "left")
    told = result(found, length)
    assert told.longer.value == told.when_longer.value == 1.0 and told.when_shorter.value == 0.0
    assert told.rate.value == 0.5 and told.longer.low > 0.8
    assert result(found, side).on_the_left.value == 1.0


def test_equal_answers_are_ties_that_nobody_is_asked_about(tmp_path):
    found, votes = made(4, "same", " same"), Votes(tmp_path)
    assert votes.left("anna", found) == []
    told = result(found, votes)
    assert (told.votes, told.same, told.rate.value) == (0, 4, 0.5) and told.longer is None
    assert result(made(4), votes) is None
    broken = [record(0, None, error="busy"), record(1, None)]
    assert [pair.number for pair in pairs(broken, [record(0, None), record(1, None)])] == [1]


def post(address, form, **headers):
    data = urllib.parse.urlencode(form).encode()
    return urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=5).read().decode()


def test_a_person_judges_on_a_page_that_hides_who_is_who(tmp_path):
    found, votes = made(3, "<b>one</b>", "the other"), Votes(tmp_path)
    image = PIL.Image.new("RGB", (4, 4))
    with Judging(found, votes, "anna", lambda pair: [image]) as judging:
        seen = []
        page = urllib.request.urlopen(judging.address, timeout=5).read().decode()
        for number in range(3):
            assert f"{number} of 3 are judged" in page and "<b>one" not in page and "&lt;b&gt;one" in page
            assert "data:image/jpeg" in page and "<script" not in page
            assert not re.search(r"swapped|\bA\b|\bB\b", page)
            fields = dict(re.findall(r'name="(pair|word)" value="(\w+)"', page))
            seen.append(fields["pair"])
            page = post(judging.address, {**fields, "side": "left"})
        assert "All are judged" in page and judging.done.is_set()
        again = urllib.request.urlopen(f"{judging.address}?pair={seen[-1]}", timeout=5).read().decode()
        assert "Which answer is better?" in again
        post(judging.address, {**fields, "side": "tie"})
    assert seen == [pair.key for pair in found]
    assert list(Votes(tmp_path).given.values()) == ["left", "left", "tie"]


@pytest.mark.parametrize(
    ("form", "headers"),
    [
        ({"word": "wrong"}, {}),
        ({"side": "up"}, {}),
        ({"pair": "other"}, {}),
        ({}, {"Host": "evil.example"}),
        ({"more": "x" * 5000}, {}),
    ],
)
def test_nobody_else_gives_a_vote(tmp_path, form, headers):
    found, votes = made(2), Votes(tmp_path)
    with Judging(found, votes, "anna", nothing) as judging:
        right = {"pair": found[0].key, "word": judging.word, "side": "left"}
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(judging.address, {**right, **form}, **headers)
        assert refused.value.code in (403, 413) and votes.given == {}
        link = http.client.HTTPConnection("127.0.0.1", judging.server.server_port, timeout=5)
        link.request("GET", "/", headers={"Host": "evil.example"})
        answer = link.getresponse()
        assert answer.status == 403 and judging.word not in answer.read().decode()
        link.close()
        post(judging.address, right)
    assert len(votes.given) == 1


def test_prompts_are_put_as_they_are_written(tmp_path):
    path = questions.file(tmp_path, 4)
    (tmp_path / "p.jsonl").write_text('{"question": "Describe it.", "image": "0.png"}\n{"question": "Hello"}\n')
    prompts = Prompts(Config(path=str(tmp_path / "p.jsonl")))
    (message,) = prompts.ask(prompts.question(0)).messages
    assert message.parts[1:] == ("Describe it.",) and str(message.parts[0].source).endswith("0.png")
    sure, told = Sure(lambda n: f"answer {n}"), []
    found = answers(prompts, sure, tmp_path / "answers", Writing(8), told.append)
    assert [one.answer for one in found] == ["answer 0", "answer 1"] and sum(told) == 2
    path.write_text('{"quest": 3}\n')
    with pytest.raises(ValueError, match=r"questions.jsonl, row 0: there is no column 'question'"):
        prompts = Prompts(Config(path=str(path)))
        prompts.question(0)


def test_the_command_says_what_votes_come_to(tmp_path, capsys):
    questions.model(tmp_path / "a")
    questions.model(tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").write_bytes(changed(tmp_path / "b" / "model.safetensors"))
    path = questions.file(tmp_path, 4)
    words = ["prefer", str(tmp_path / "a"), str(tmp_path / "b"), str(path), "--max-new-tokens", "4"]
    words += ["--out", str(tmp_path / "out"), "--device", "cpu", "--only-result"]
    assert cli.main(words) == 0
    assert "there are no votes yet" in capsys.readouterr().out
    votes = Votes(tmp_path / "out")
    read = [json.loads(line) for file in (tmp_path / "out" / "answers").iterdir() for line in file.open()]
    assert len(read) == 8 and not votes.given


def changed(path):
    """The weights of a file, some of them others."""
    data = bytearray(path.read_bytes())
    for place in range(len(data) - 4000, len(data) - 3, 4):
        data[place + 3] ^= 0x80  # the other sign
    return bytes(data)


@pytest.mark.parametrize("port", [-1, 99999])
def test_a_port_that_cannot_be_is_one_line(tmp_path, port):
    with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1"):
        Judging(made(), Votes(tmp_path), "anna", nothing, port)


def test_a_port_that_is_taken_is_said_with_what_to_do(tmp_path):
    with Judging(made(), Votes(tmp_path), "anna", nothing) as judging:
        taken = judging.server.server_port
        with pytest.raises(ValueError, match=f"port {taken} of 127.0.0.1: .* in use; name another, or 0 for a free"):
            Judging(made(), Votes(tmp_path), "bert", nothing, taken)


def test_a_second_model_that_is_not_there_is_said_before_the_first_is_asked(tmp_path, capsys):
    questions.model(tmp_path / "model")
    (tmp_path / "p.jsonl").write_text('{"question": "hi"}\n')
    words = [str(tmp_path / "model"), "gone", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "out")]
    assert cli.main(["prefer", *words, "--device", "cpu"]) == 2
    assert "gone is no folder" in capsys.readouterr().err
    assert not list(tmp_path.rglob("answers/*"))
