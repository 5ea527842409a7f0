"""MT-Bench on a made-up question and a tiny model: FastChat's format, a judge behind a local server, and none."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from io import StringIO

import pytest
from rich.console import Console

from dyntok_jax.errors import InputError
from experiments.shared import judge as judging
from experiments.shared.fastchat import MtQuestion, read_mt_questions
from tests.support.tiny import write_tiny_decoder, write_tiny_decoder_hypernet

QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Write of freedom.", "Now of dignity."]},
    {"question_id": 101, "category": "reasoning", "turns": ["Who is free?", "And equal?"], "reference": ["all", "all"]},
]
REFERENCES = [{"question_id": 101, "choices": [{"index": 0, "turns": ["Everyone is.", "All are."]}]}]


@pytest.fixture(scope="module")
def mt_bench():
    return import_module("experiments.mt_bench")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mt_bench")
    write_tiny_decoder(folder / "model", n_layers=1, max_positions=4096)
    write_tiny_decoder_hypernet(folder / "hypernet", folder / "model")
    for name, rows in (("question", QUESTIONS), ("reference_answer_gpt4", REFERENCES)):
        content = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    return folder


class Server:
    """Answers chat completions with what `answers` says, and remembers what it was asked."""

    def __init__(self):
        self.asked, self.keys, self.answers = [], [], []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append((self.path, body))
                server.keys.append(self.headers.get("Authorization"))
                status, said = server.answers.pop(0) if server.answers else (200, "Fine. [[7]]")
                content = json.dumps({"choices": [{"message": {"content": said}}]} if status == 200 else {}).encode()
                self.send_response(status)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(judging, "PAUSE_SECONDS", 0.0)


def options_of(mt_bench, folders, output, **changes):
    named = {"model": str(folders / "model"), "hypernet": str(folders / "hypernet"), "max_tokens": 6, "output": output}
    return mt_bench.Options(folders, **named | {"shares": (100,)} | changes)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_answers_have_fastchats_format_and_are_taken_again(mt_bench, folders, tmp_path):
    options = options_of(mt_bench, folders, tmp_path, json=tmp_path / "out.json", table=tmp_path / "out.md")
    figures = mt_bench.run(options, Console(file=StringIO()))
    path = tmp_path / "model_answer" / "model-hypernet_share100.jsonl"
    for row, question in zip(lines(path), QUESTIONS, strict=True):
        assert row["question_id"] == question["question_id"]
        assert row["model_id"] == "model-hypernet_share100"
        assert len(row["answer_id"]) == 22
        assert row["tstamp"] > 0
        ((choice,), turns) = row["choices"], row["choices"][0]["turns"]
        assert choice["index"] == 0
        assert [type(turn) for turn in turns] == [str, str]
    assert figures["static_same_beginning_percent"] == figures["static_word_f1_percent"] == 100
    assert figures["static_reference_bits_per_byte"] != figures["fvt_share100_reference_bits_per_byte"]
    assert "reference bits per byte" in figures["judge"]
    table = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert "static, other seed" in table
    assert f"{figures['fvt_share100_reference_bits_per_byte']:.3f}" in table
    before = path.read_bytes()
    mt_bench.run(options, Console(file=StringIO()))
    assert path.read_bytes() == before  # the time of writing would differ
    mt_bench.run(options_of(mt_bench, folders, tmp_path, max_tokens=5), Console(file=StringIO()))
    assert path.read_bytes() != before


@pytest.mark.slow
def test_a_judges_scores_reach_the_table_and_its_judgments_a_file(mt_bench, folders, tmp_path, server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    server.answers = [(200, "Bad. [[2]]"), (200, "no rating"), (503, ""), (200, "Good. [[9.5]]")]
    changes = {"judge_url": server.url, "judge_model": "some/judge", "judge_key": "JUDGE_KEY", "hypernet": None}
    figures = mt_bench.run(options_of(mt_bench, folders, tmp_path, **changes), Console(file=StringIO()))
    assert (figures["static_score_turn1"], figures["static_score_turn2"]) == (5.75, 7)
    assert figures["static_unrated"] == 1
    assert figures["fvt_share100_score"] == 7
    rows = lines(tmp_path / "model_judgment" / "judge_single.jsonl")
    assert len(rows) == 3 * 2 * len(QUESTIONS)
    assert rows[0]["judge"] == ["some/judge", "dyntok-single"]
    assert [row["score"] for row in rows[:3]] == [2, -1, 9.5]
    assert {row["model"] for row in rows} == {"model-static", "model-static_other_seed", "model-fvt_share100"}
    path, body = server.asked[-1]
    assert path == "/v1/chat/completions"
    assert body["model"] == "some/judge"
    assert "All are." in body["messages"][1]["content"]  # the reference answer of reasoning
    assert "Everyone" not in server.asked[0][1]["messages"][1]["content"]
    assert set(server.keys) == {"Bearer secret"}


def one_judge(server, prompts=None):
    return judging.Judge(server.url, "judge", None, judging.judge_prompts(prompts))


def test_an_endpoint_that_is_not_one_is_told(server):
    question = MtQuestion(1, "writing", ("a", "b"))
    server.answers = [(404, "")]
    with pytest.raises(InputError, match=r"did not answer: HTTP 404.*Check --judge-url"):
        one_judge(server).judge(question, ("x", "y"), 1)
    assert len(server.asked) == 1  # no second try
    server.answers = [(500, "")] * 3
    with pytest.raises(InputError, match="HTTP 500"):
        one_judge(server).judge(question, ("x", "y"), 1)
    with pytest.raises(InputError, match="must begin with http:// or https://, got 'ftp"):
        judging.Judge("ftp://there", "judge", None, {})
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(InputError, match="did not answer"):
        one_judge(server).judge(question, ("x", "y"), 1)


def test_fastchats_own_prompts_are_taken_from_its_file(server, tmp_path):
    rows = [
        {"name": name, "system_prompt": "S", "prompt_template": f"{{answer{'' if turn == 1 else '_2'}}}"}
        for (turn, _), name in judging.FASTCHAT_NAMES.items()
    ]
    path = tmp_path / "judge_prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = one_judge(server, path).judge(MtQuestion(1, "writing", ("a", "b")), ("first", "second"), 2)
    assert (found["judge"], found["user_prompt"]) == (["judge", "single-v1-multi-turn"], "second")
    path.write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="single-math-v1"):
        judging.judge_prompts(path)


def test_words_in_common_are_counted(mt_bench):
    assert mt_bench.same_words("a b c", "a b d") == (pytest.approx(200 / 3), pytest.approx(200 / 3))
    assert mt_bench.same_words("a b", "a b") == (100, 100)
    assert mt_bench.same_words("", "") == (100, 100)
    assert mt_bench.same_words("a", "") == (0, 0)


def test_questions_of_another_kind_are_told(mt_bench, folders, tmp_path):
    with pytest.raises(InputError, match=r"question.jsonl.gz cannot be read"):
        read_mt_questions(tmp_path)
    bad = json.dumps({**QUESTIONS[0], "turns": ["only one"]}).encode()
    (tmp_path / "question.jsonl.gz").write_bytes(gzip.compress(bad))
    with pytest.raises(InputError, match="something else than MT-Bench's questions"):
        read_mt_questions(tmp_path)
    with pytest.raises(InputError, match="give --judge-model too"):
        mt_bench.run(options_of(mt_bench, folders, tmp_path, judge_url="http://x"), Console(file=StringIO()))
