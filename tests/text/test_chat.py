"""Chats are rendered by the template of the model, and what cannot be one is told in a sentence."""

import json
import time

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.text import ChatTemplate

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 < 3?\nSay it."},
    {"role": "assistant", "content": "True  "},
    {"role": "user", "content": "Why, „mate“?"},
]
STRICT = "{% if messages[0].role != 'user' %}{{ raise_exception('the user must begin') }}{% endif %}{{ bos_token }}x"


def write(folder, template, name="tokenizer_config.json", **tokens):
    content = template if name.endswith("jinja") else json.dumps({"chat_template": template, **tokens})
    (folder / name).write_text(content, encoding="utf-8")


def test_a_file_of_its_own_wins_and_tokens_come_from_the_config(tmp_path):
    write(tmp_path, "old", bos_token={"content": "<s>"}, eos_token=None)
    write(tmp_path, "{{ bos_token }}{{ messages[0]['content'] }}", "chat_template.jinja")
    assert ChatTemplate.load(tmp_path).render(CHAT) == "<s>Be brief."


def test_of_several_templates_the_default_is_taken(tmp_path):
    write(tmp_path, [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}])
    assert ChatTemplate.load(tmp_path).render(CHAT) == "d"


@pytest.mark.parametrize("strips", [False, True])
def test_a_last_turn_that_is_continued_is_left_open(tmp_path, strips):
    content = "{{ m.content | trim }}" if strips else "{{ m.content }}"
    write(tmp_path, "{% for m in messages %}[{{ m.role }}]" + content + "[end]{% endfor %}")
    template, turns = ChatTemplate.load(tmp_path), [CHAT[1], {"role": "assistant", "content": "It is "}]
    assert template.render(turns, continue_last=True) == "[user]What is 2 < 3?\nSay it.[end][assistant]It is" + (
        "" if strips else " "
    )
    with pytest.raises(InputError, match="no last turn to continue"):
        template.render([], continue_last=True)
    write(tmp_path, "{{ messages[0].content }}")
    with pytest.raises(InputError, match="leaves out the last turn"):
        ChatTemplate.load(tmp_path).render(turns, continue_last=True)


def test_no_template_is_none(tmp_path):
    assert ChatTemplate.load(tmp_path) is None
    write(tmp_path, None)
    assert ChatTemplate.load(tmp_path) is None


def test_what_a_template_refuses_is_the_user_s_to_mend(tmp_path):
    write(tmp_path, STRICT, bos_token="<s>")
    template = ChatTemplate.load(tmp_path)
    assert template.render(CHAT[1:]) == "<s>x"
    with pytest.raises(InputError, match="refuses this chat: the user must begin"):
        template.render(CHAT)


def test_a_template_runs_in_a_sandbox(tmp_path):
    write(tmp_path, "{{ messages.__class__.__mro__ }}")
    with pytest.raises(ConfigError, match="cannot be used"):
        ChatTemplate.load(tmp_path).render(CHAT)


def test_a_broken_template_is_named(tmp_path):
    write(tmp_path, "{% if %}")
    with pytest.raises(ConfigError, match=r"tokenizer_config.json cannot be used"):
        ChatTemplate.load(tmp_path).render(CHAT)


@pytest.mark.parametrize("turn", [{"role": "user"}, {"content": "x"}, {"role": "user", "content": 3}])
def test_turns_without_role_or_content_are_told(tmp_path, turn):
    write(tmp_path, "x")
    with pytest.raises(InputError, match="Turn 1 of the chat must have a role and a content"):
        ChatTemplate.load(tmp_path).render([CHAT[1], turn])


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0] | tojson(indent=2, sort_keys=true, ensure_ascii=true, separators=(',', ':')) }}",
        "{% generation %}{{ messages[0].content }}{% endgeneration %}",
        "{{ tools is none and documents is none }}",
    ],
)
def test_14_17_what_hugging_face_templates_use_is_known(tmp_path, template):
    write(tmp_path, template)
    assert ChatTemplate.load(tmp_path).render(CHAT)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 + 'a' }}",
        "{{ 1 / 0 }}",
        "{{ messages.foo.bar }}",
        "{{ messages[0] < 3 }}",
        "{% for i in range(10 ** 7) %}{% endfor %}",
        "{% include 'other' %}",
        "{% extends 'other' %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ messages | tojson(indent=messages) }}",
        "{{ [].pop() }}",
        "{{ none | tojson(indent=[]) }}",
        "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
    ],
)
def test_20_whatever_a_template_raises_is_told(tmp_path, template):
    write(tmp_path, template)
    with pytest.raises(ConfigError, match=r"tokenizer_config.json cannot be used"):
        ChatTemplate.load(tmp_path).render(CHAT)


def test_20_templates_that_are_no_text_are_told(tmp_path):
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe{{ bos_token }}")
    with pytest.raises(ConfigError, match=r"chat_template\.jinja cannot be read"):
        ChatTemplate.load(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    write(tmp_path, [5, {"name": "default"}])
    assert ChatTemplate.load(tmp_path) is None


LETTERS = "{% for a in 'abcdefghijklmnopqrstuvwxyz' %}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        LETTERS * 12 + "{% endfor %}" * 12,
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% for m in [[]] recursive %}{{ loop([[]]) }}{{ loop([[]]) }}{% endfor %}",
        "{{ 'a' * 10 ** 11 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(90) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{{ '%1000000000d' % 1 }}",
    ],
)
def test_21_templates_without_an_end_are_told(tmp_path, template):
    write(tmp_path, template)
    began = time.process_time()  # of this process, however busy the machine is
    with pytest.raises(ConfigError, match="cannot be used"):
        ChatTemplate.load(tmp_path).render(CHAT)
    assert time.process_time() - began < 20


def test_21_loops_of_real_templates_are_as_ever(tmp_path):
    template = (
        "{% for m in messages if m.role != 'system' %}{{ loop.index }}/{{ loop.length }}{{ m.role[0] }}"
        "{% if not loop.last %},{% endif %}{% if loop.index0 == 1 %}{% break %}{% endif %}{% else %}none{% endfor %}"
        "{% for key, value in {'a': 1}.items() %}{{ key }}{{ value + 1 }}{% endfor %}"
        "{% for i in range(3) %}{{ loop.previtem }}{{ loop.nextitem }}{% endfor %}{{ '-' * 3 }}"
    )
    write(tmp_path, template)
    plain = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    ).from_string(template)
    for chat in (CHAT, CHAT * 400):
        assert ChatTemplate.load(tmp_path).render(chat) == plain.render(messages=chat)
