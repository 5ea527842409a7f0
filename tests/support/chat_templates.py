"""Constructs of the chat templates that models come with, one or a few of each family."""

TOOLS = "{% if tools is not none %}tools {{ tools | tojson }}{% else %}no tools{% endif %}"
BODY = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
CONSTRUCTS = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "tools is none": TOOLS + BODY,
    "tools is defined and not none": "{% if tools is defined and tools is not none %}a{% else %}b{% endif %}",
    "tools is defined": "{% if tools is defined %}defined{% else %}undefined{% endif %}",
    "not tools is defined": "{%- if not tools is defined %}{%- set tools = none %}{%- endif %}{{ tools }}",
    "tools as a truth": "{% if tools %}some{% else %}none{% endif %}",
    "tools as text": "tools: {{ tools }}, documents: {{ documents }}",
    "documents is none": "{% if documents is none %}x{% else %}{{ documents | length }}{% endif %}",
    "documents defined": "{% if documents is defined %}x{% else %}y{% endif %}",
    "custom_tools": "{% if custom_tools is defined %}{% set tools = custom_tools %}{% endif %}{{ tools is none }}",
    "enable_thinking": "{% if enable_thinking is defined and enable_thinking is false %}<think>{% endif %}x",
    "tojson": "{{ messages | tojson }}",
    "tojson positional": "{{ messages[0] | tojson(true) }}",
    "tojson of 2": "{{ messages[0] | tojson(2) }}",
    "tojson ensure_ascii": "{{ messages[0] | tojson(ensure_ascii=False) }}",
    "tojson ascii": "{{ messages[3] | tojson(ensure_ascii=True) }}",
    "tojson indent": "{{ messages[0] | tojson(indent=4) }}",
    "tojson sort_keys": "{{ messages[0] | tojson(sort_keys=True) }}",
    "tojson separators": "{{ messages[0] | tojson(separators=(',', ':')) }}",
    "tojson all": "{{ messages | tojson(ensure_ascii=true, indent=1, separators=(',', ':'), sort_keys=true) }}",
    "tojson of html": "{{ '<a href=\"x\">&</a>' | tojson }}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "generation with dashes": "{%- for m in messages -%}  {%- generation -%}  {{ m.content }}  {%- endgeneration -%}\n"
    "{%- endfor -%}",
    "generation is a scope": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "generation sees the loop": "{% for m in messages %}{% generation %}{{ loop.index }}{{ m.role }}{% endgeneration %}"
    "{% endfor %}",
    "generation and a namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% generation %}"
    "{% set ns.n = ns.n + 1 %}{% endgeneration %}{% endfor %}{{ ns.n }}",
    "namespace": "{% set ns = namespace(found=false) %}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }}",
    "loop controls": "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{% if loop.last %}"
    "{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "loop neighbours": "{% for m in messages %}{{ loop.previtem.role if not loop.first else '-' }}"
    "{{ loop.cycle(1, 2) }}{% endfor %}",
    "trim": "{% for m in messages %}[{{ m['content'] | trim }}]{% endfor %}",
    "strip and split": "{{ messages[2].content.strip() }}{{ messages[1].content.split('\n')[-1].lstrip('S') }}",
    "startswith": "{{ messages[1].content.startswith('What') }}{{ messages[1].content.endswith('.') }}",
    "slices": "{% for m in messages[1:] %}{{ m.role }}{% endfor %}{{ messages[::-1][0].role }}"
    "{{ messages[-1].content[:3] }}",
    "system apart": "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% endif %}{{ system }}|{{ messages | length }}",
    "bos and eos": "{{ bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}",
    "unk is not given": "{{ unk_token is defined }}{{ mask_token }}",
    "strftime_now": "{{ strftime_now('%Y') }}",
    "strftime_now if defined": "{% if strftime_now is defined %}{{ strftime_now('%d') | length }}{% endif %}",
    "date_string": "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{{ date_string }}",
    "macro": "{% macro show(m) %}<{{ m.role }}>{% endmacro %}{% for m in messages %}{{ show(m) }}{% endfor %}",
    "macro with caller": "{% macro box() %}[{{ caller() }}]{% endmacro %}{% call box() %}x{% endcall %}",
    "filters": "{{ messages | map(attribute='role') | join(', ') }}{{ messages | selectattr('role', 'equalto', 'user')"
    " | list | length }}{{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='content') | first }}",
    "is string": "{% if messages[0].content is string %}s{% elif messages[0].content is iterable %}i{% endif %}",
    "is mapping": "{{ messages[0] is mapping }}{{ messages is sequence }}{{ messages[0].tool_calls is defined }}",
    "get": "{{ messages[0].get('tool_calls', 'none') }}{{ messages[0].get('name') }}{{ 'role' in messages[0] }}",
    "items": "{% for key, value in messages[0].items() %}{{ key }}={{ value }};{% endfor %}",
    "dictsort": "{{ messages[0] | dictsort }}{{ dict(a=1) }}{{ {'x': [1, 2]} | items | list }}",
    "upper and title": "{{ messages[0].role | upper }}{{ messages[0].role | capitalize }}"
    "{{ messages[0].role.title() }}",
    "replace": "{{ messages[0].content | replace('brief', 'long') }}{{ messages[0].content.replace(' ', '_') }}",
    "whitespace": "  {% if true %}\n    a\n  {% endif %}\n  {{- ' b' -}}  \n\n{# note #}\nc\n",
    "default": "{{ nothing | default('x') }}{{ none | default('y', true) }}",
    "undefined is empty": "[{{ nothing }}][{{ messages[0].nothing }}]",
    "arithmetic": "{{ (messages | length) % 2 == 0 }}{{ 7 // 2 }}{{ '%s-%d' | format('a', 3) }}{{ 'a' ~ 1 }}",
    "autoescape is off": "{{ '<b>' }}{{ '<i>' | safe }}",
    "raise": "{% if messages[0].role != 'user' %}{{ raise_exception('the user must begin') }}{% endif %}",
    "alternate": "{% for m in messages[1:] %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}",
    "filter block": "{% filter upper %}{{ messages[0].content }}{% endfilter %}",
    "set block": "{% set text %}{% for m in messages %}{{ m.role }}{% endfor %}{% endset %}{{ text | length }}",
}
