"""Chats are rendered by the template of the model, and what cannot be one is told in a sentence."""

import json

import pytest

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
    "template", ["{{ 'a' + 1 }}", "{{ 1 / 0 }}", "{{ [].pop() }}", "{{ none | tojson(indent=[]) }}"]
)
def test_14_17_a_mistake_of_a_template_is_told_in_a_sentence(tmp_path, template):
    write(tmp_path, template)
    with pytest.raises(ConfigError, match=r"tokenizer_config.json cannot be used"):
        ChatTemplate.load(tmp_path).render(CHAT)
