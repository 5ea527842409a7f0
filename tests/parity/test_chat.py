"""Chats become the text that transformers makes of them."""

import pytest
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dyntok_jax.errors import InputError
from dyntok_jax.text import ChatTemplate
from tests.support.chat_templates import CONSTRUCTS
from tests.support.tiny import tiny_decoder_tokenizer
from tests.text.test_chat import CHAT


@pytest.mark.parametrize("chat", [CHAT, CHAT[1:2]])
@pytest.mark.parametrize("opens", [True, False])
def test_text_is_that_of_transformers(smollm2_folder, chat, opens):
    theirs = AutoTokenizer.from_pretrained(smollm2_folder)
    expected = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=opens)
    assert ChatTemplate.load(smollm2_folder).render(chat, add_generation_prompt=opens) == expected


@pytest.fixture(scope="module")
def their_tokenizer():
    return PreTrainedTokenizerFast(tokenizer_object=tiny_decoder_tokenizer(), bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("name", CONSTRUCTS)
@pytest.mark.parametrize("opens", [True, False])
def test_14_17_constructs_of_templates_give_the_text_of_transformers(their_tokenizer, name, opens):
    template = ChatTemplate(CONSTRUCTS[name], {"bos_token": "<s>", "eos_token": "</s>"}, "the test")
    options = {"chat_template": template.source, "tokenize": False, "add_generation_prompt": opens}
    try:
        expected = their_tokenizer.apply_chat_template(CHAT, **options)
    except TemplateError:
        with pytest.raises(InputError, match="refuses this chat"):
            template.render(CHAT, add_generation_prompt=opens)
    else:
        assert template.render(CHAT, add_generation_prompt=opens) == expected
