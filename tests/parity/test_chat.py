"""Chats become the text that transformers makes of them."""

import pytest
from transformers import AutoTokenizer

from dyntok_jax.text import ChatTemplate
from tests.text.test_chat import CHAT


@pytest.mark.parametrize("chat", [CHAT, CHAT[1:2]])
@pytest.mark.parametrize("opens", [True, False])
def test_text_is_that_of_transformers(smollm2_folder, chat, opens):
    theirs = AutoTokenizer.from_pretrained(smollm2_folder)
    expected = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=opens)
    assert ChatTemplate.load(smollm2_folder).render(chat, add_generation_prompt=opens) == expected
