"""Chat templates: what good ones render, and which arguments are refused.

The oracle is Jinja2's own sandbox, set up as chat templates expect it, with none of our limits.
"""

# ruff: noqa: E501 - templates are written as model files carry them

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from typing import Any

import pytest
from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from my_llm_ffi.chat import ChatLimits, ChatTemplateError, render_chat

TAGGED = """\
{%- if messages[0]['role'] != 'system' %}
{{- '<|turn|>system\\nBe brief.<|end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|turn|>' + message['role'] + '\\n' + message['content'] + '<|end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}
"""

HEADERS = """\
{{- bos_token }}
{%- if date is not defined %}{% set date = "26 Jul 2024" %}{% endif %}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|head|>system<|/head|>\\n\\n' ~ 'Today: ' ~ date ~ '\\n' ~ system ~ '<|eot|>' }}
{%- if tools is not none and messages|length != 0 %}
    {%- set first = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
    {{- '<|head|>user<|/head|>\\n\\nTools:\\n' }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first + '<|eot|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|head|>' + message['role'] + '<|/head|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("One tool call at a time!") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|head|>assistant<|/head|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- "}<|eot|>" }}
    {%- else %}
        {{- "<|head|>ipython<|/head|>\\n\\n" }}
        {%- if message.content is mapping or message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|/head|>\\n\\n' }}{%- endif %}
"""

TOOLS_XML = """\
{% macro kind(p) -%}
  {%- if p.type is string %}{{ {"integer": "int", "string": "str"}.get(p.type, p.type) }}
  {%- elif p.anyOf is defined %}{{ p.anyOf|map(attribute='type')|join(' | ') }}
  {%- elif p['items'] is mapping %}list[{{ kind(p['items']) }}]{% endif %}
{%- endmacro %}
{%- set ns = namespace(last=messages|length - 1, searching=true, thought='', n=0) %}
{%- for message in messages[::-1] %}
  {%- set index = (messages|length - 1) - loop.index0 %}
  {%- if ns.searching and message.role == "user" and message.content is string
        and not(message.content.startswith('<reply>') and message.content.endswith('</reply>')) %}
    {%- set ns.searching = false %}
    {%- set ns.last = index %}
  {%- endif %}
{%- endfor %}
{%- if tools %}
{{ "<tools>" }}
{%- for tool in tools|selectattr('function', 'defined') %}
{{ tool.function.name|upper }}(
{%- for name, p in tool.function.parameters.properties|dictsort -%}
{{ name }}: {{ kind(p) }}{{ ", " if not loop.last }}
{%- endfor %}) {{ tool.function.description|default('no description', true)|title }}
{%- endfor %}
{{ "</tools>" }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == "skip" %}{% continue %}{% endif %}
{%- if message.content is string %}{% set content = message.content %}
{%- else %}{% set content = message.content|selectattr('type', 'equalto', 'text')
                            |map(attribute='text')|join('\\n') if message.content else '' %}{% endif %}
{%- if message.role == "assistant" and '</think>' in content %}
  {%- set ns.thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
  {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{%- generation %}[{{ loop.index }}/{{ loop.length }} {{ message['role']|capitalize }}]
{%- if loop.index0 > ns.last and ns.thought %} ({{ ns.thought }}){% endif %} {{ content }}
{%- endgeneration %}
{%- for call in message.tool_calls or [] %}
  {%- if call.function %}{% set call = call.function %}{% endif %}
<call>{{ call.name }}
  {%- for k, v in call.arguments.items() %} {{ k }}={{ v if v is string else v|tojson }}{% endfor -%}
</call>
{%- endfor %}
{%- set ns.n = ns.n + 1 %}
{%- endfor %}
{{ ns.n }} of {{ messages|length }}; even: {{ ns.n is even }}; {{ "%02d%%"|format(ns.n * 7 % 100) }}
{%- if add_generation_prompt %}[Assistant]{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}
"""

ALTERNATING = """\
{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}\
{{ bos_token + '[' + message['content'].strip() + ']' if message['role'] == 'user' \
   else message['content'] | replace('\\n', ' ') + eos_token }}{% endfor %}
"""

USER = {"role": "user", "content": "  What is\n2 + 2? <&'\"> é 🎈 "}
REPLY = {"role": "assistant", "content": "<think>\nsum\n</think>\n\nIt is 4.\n"}
PARTS = {
    "role": "user",
    "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}],
}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1, "b": [2.5, None, "é"]}}}],
}
RESULT = {"role": "tool", "content": '{"sum": 4}'}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "adds two numbers",
            "parameters": {
                "properties": {
                    "b": {"type": "array", "items": {"type": "integer"}},
                    "a": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                }
            },
        },
    }
]


def oracle(template: str, messages: list[Any], **names: Any) -> str:
    """The template in Jinja2's sandbox without limits."""
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, **rest: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **rest)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    template = template.replace("{%- generation %}", "{#- -#}").replace(
        "{%- endgeneration %}", "{#- #}"
    )
    defaults = {"tools": None, "add_generation_prompt": True, "bos_token": "", "eos_token": ""}
    return env.from_string(template).render(messages=messages, **{**defaults, **names})


@pytest.mark.parametrize("template", [TAGGED, HEADERS, TOOLS_XML, ALTERNATING])
@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [USER, REPLY],
        [USER, REPLY, USER],
        [{"role": "system", "content": " Rhyme. "}, USER],
        [USER, CALL, RESULT],
        [PARTS, REPLY, PARTS],
        [{"role": "skip", "content": ""}, USER],
    ],
)
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_renders_as_jinja2_does(
    template: str, messages: list[Any], tools: Any, add_generation_prompt: bool
) -> None:
    """Where the plain sandbox fails, ours fails too."""
    names: dict[str, Any] = {
        "tools": tools,
        "add_generation_prompt": add_generation_prompt,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "enable_thinking": False,
    }
    try:
        expected = oracle(template, messages, **names)
    except (TemplateError, TypeError):
        with pytest.raises(ChatTemplateError):
            render_chat(template, messages, **names)
    else:
        assert render_chat(template, messages, **names) == expected


@pytest.mark.parametrize(
    "expression",
    [
        "'a b-c'|title, 'x'|center(7), '  t '|trim, 'abcabc'|replace('b', 'XY', 1), none",
        "'l1\\nl2\\n\\nl3'|indent(2), 'l1\\nl2\\n\\nl3'|indent('> ', true, true)",
        "'<\"&\\'>'|escape|string, 1.0, 1e20, 7 // 2, 7 / 2, -7 % 3, 2 ** 10, +3, -3, not 1",
        "[3, 1, 2]|sort, ['b', 'A', 'a']|sort, ['b', 'A', 'a']|sort(true, true), [1, 1, 2]|unique|list",
        "messages|map(attribute='role')|list, messages|map(attribute='nope', default='-')|list",
        "['a', 'b']|map('upper')|join('/'), [1, 2, 3]|select('odd')|list, [1, 0]|select|list",
        "[1, 2, 3]|reject('gt', 1)|list, messages|rejectattr('role', 'eq', 'user')|list|length",
        "messages|selectattr('content')|list|length, [1, 2]|sum, messages|sum(attribute='n', start=1)",
        "[]|first, [1, 2]|first, [1, 2]|last, 'abc'|first, 'abc'|last, 'abc'|reverse, [1, 2]|min",
        "[2, 5]|max, {'b': 1, 'a': 2}|dictsort, {'b': 1, 'a': 2}|dictsort(by='value')",
        "{'b': 1}|items|list, '42.7'|int, 'x'|int(-1), 'ff'|int(base=16), 'x'|float, '1.5'|float",
        "2.567|round(1), 2.1|round(0, 'ceil'), (-5)|abs, undefined_name|d('x'), ''|default('y', true)",
        "[1, 'a', none, true, 1.5, {'k': [1]}]|tojson, {'b': 1, 'a': 'é<'}|tojson(sort_keys=true)",
        "[1, {'a': 2}]|tojson(indent=2), [1]|tojson(separators=(',', ':')), 'é'|tojson(true)",
        "'%s-%5.2f-%(x)s' % 'q' if false else '%s %03d %x' % ('q', 7, 255), '%(a)s' % {'a': 1}",
        "'a,b,,c'.split(','), ' a  b '.split(), 'a-b-c'.rsplit('-', 1), 'a\\nb'.splitlines()",
        "'abc'.find('c'), 'abca'.count('a'), 'a.b'.partition('.'), 'x'.zfill(3), 'x'.ljust(3, '.')",
        "'abc'.startswith('ab'), 'ABC'.lower(), '-'.join(['a', 'b']), 'aXa'.replace('a', 'bb')",
        "'abc'[1], 'abc'[-1], 'abc'[::-1], 'abc'[1:], [1, 2, 3][:2], [1, 2][5], (1, 2)[0]",
        "{'a': 1}.get('b', 3), {'a': 1}.keys()|list, {'a': 1}.items()|list, {'a': 1}['a'], [1].index(1)",
        "1 < 2 < 3, 1 < 3 < 2, 'a' in 'abc', 'a' in ['a'], 'z' not in {'a': 1}, [1] == [1], (1,) < (2,)",
        "1 is number, 1 is integer, 1.0 is float, 'a' is string, [] is sequence, {} is mapping",
        "none is none, x is undefined, true is boolean, 3 is odd, 9 is divisibleby(3), 1 is in [1]",
        "'A' is upper, [] is iterable, 2 is gt(1), range is callable, 1 is sameas(true), 3 is even",
        "range(3)|list, range(2, 9, 3)|list, 3 in range(5), dict(a=1), dict({'b': 2}, a=1), 'a' ~ 1 ~ none",
        "'ab' * 2, [0] * 3, [1] + [2], 'a' + 'b', (1, 2) + (3,), 1 + 1.5, true + 1, [[1, 'x'], {}]",
        "nope, messages[0].nope, messages[0]['nope'], none|default('n'), ns is defined, 'a' if false",
    ],
)
def test_filters_tests_and_methods_mean_what_they_mean_in_jinja2(expression: str) -> None:
    parts = "{% for x in (EXPRESSION) %}<{{ x }}>{% endfor %}".replace("EXPRESSION", expression)
    messages = [{"role": "user", "content": "c", "n": 2}, {"role": "tool", "content": "", "n": 3}]
    assert render_chat(parts, messages) == oracle(parts, messages)


@pytest.mark.parametrize(
    "template",
    [
        "{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }}.{% endfor %}",
        "{% for a in range(4) if a is odd %}{{ a }}{{ loop.last }}{% else %}none{% endfor %}",
        "{% for a in [] %}{% else %}none{% endfor %}{{ '{%' }}{% raw %}{{ x }}{% endraw %}",
        "{% for a in range(9) %}{% if a == 2 %}{% continue %}{% elif a == 5 %}{% break %}{% endif %}"
        "{{ loop.cycle('x', 'y') }}{{ loop.revindex }}{{ loop.previtem }}{{ loop.nextitem }}"
        "{% endfor %}",
        "{% macro m(a, b='B') %}{{ a }}{{ b }}{{ caller(a) if caller is defined }}{{ varargs }}"
        "{% endmacro %}{{ m(1) }}{{ m(1, 2, 3) }}{% call(v) m('x') %}[{{ v }}]{% endcall %}",
        "{% set block %}a{{ 1 }}{% endset %}{% set x, y = 1, 'z' %}{{ block ~ x ~ y }}",
        "{% set t | upper %}abc{% endset %}{% filter lower %}ABC{{ t }}{% endfilter %}",
        "{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}{{ strftime_now('%Y') }}",
        "{% set ns = namespace({'a': 1}, b=2) %}{% set ns.c = ns.a + ns['b'] %}{{ ns.c }}{{ ns.d }}",
        "line\n    {% if true %}\n  kept\n    {% endif %}\n{# gone #}\nend\n",
    ],
)
def test_statements_mean_what_they_mean_in_jinja2(template: str) -> None:
    assert render_chat(template, [USER]) == oracle(template, [USER])


def test_messages_are_copied() -> None:
    """A template cannot change what the caller holds."""
    messages = [{"role": "user", "content": "c", "list": [1]}]
    with pytest.raises(ChatTemplateError, match="append"):
        render_chat("{{ messages[0].list.append(2) }}", messages)
    assert messages == [{"role": "user", "content": "c", "list": [1]}]


@pytest.mark.parametrize(
    ("messages", "error", "message"),
    [
        ("hi", TypeError, "messages is a str, expected a list of mappings"),
        ({"role": "user"}, TypeError, "messages is a dict"),
        (None, TypeError, "messages is a NoneType"),
        ([], ValueError, "messages is empty"),
        (["hi"], TypeError, r"messages\[0\] is a str"),
        ([USER, {"content": "x"}], ValueError, r"messages\[1\] has no 'role'"),
        ([{"role": 1, "content": "x"}], TypeError, r"\['role'\] is a int"),
        ([{"role": "", "content": "x"}], ValueError, r"\['role'\] is empty"),
        ([{"role": "user"}], ValueError, r"messages\[0\] has no 'content'"),
        ([{"role": "user", "content": None}], ValueError, "only a message with 'tool_calls'"),
        ([{"role": "user", "content": b"x"}], TypeError, r"\['content'\] is a bytes"),
        ([{"role": "user", "content": {"type": "text"}}], TypeError, "expected a str or a list"),
        ([{"role": "user", "content": ["x"]}], TypeError, r"\['content'\]\[0\] is a str"),
        ([{"role": "user", "content": [{"text": "x"}]}], ValueError, "has no 'type'"),
        ([{**USER, "extra": object()}], TypeError, r"\['extra'\] is a object, expected str, int"),
        ([{**USER, "extra": {(1, 2): 3}}], TypeError, "has a key of type tuple"),
    ],
)
def test_messages_are_checked(messages: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        render_chat(TAGGED, messages)


def test_a_value_nested_too_deeply_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ValueError, match="nested deeper than 64"):
        render_chat(TAGGED, [{**USER, "extra": value}])


@pytest.mark.parametrize("template", [None, ""])
def test_a_missing_template_says_what_to_do(template: str | None) -> None:
    with pytest.raises(ValueError, match="no chat template; pass one as template="):
        render_chat(template, [USER])


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ({"tools": "x"}, TypeError, "tools is a str"),
        ({"tools": [1]}, TypeError, r"tools\[0\] is a int"),
        ({"bos_token": 1}, TypeError, "bos_token is a int"),
        ({"now": datetime.now}, TypeError, "now is a builtin_function_or_method"),
    ],
)
def test_other_arguments_are_checked(
    names: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        render_chat(TAGGED, [USER], **names)
    with pytest.raises(TypeError, match="template is a bytes"):
        render_chat(b"x", [USER])  # type: ignore[arg-type]


def test_errors_name_the_line_and_the_reason() -> None:
    with pytest.raises(ChatTemplateError, match=r"line 3: .*'nope' is undefined"):
        render_chat("a\nb\n{{ nope.x }}\n", [USER])
    with pytest.raises(ChatTemplateError, match=r"line 2: .*unknown tag 'frob'"):
        render_chat("a\n{% frob %}", [USER])
    with pytest.raises(ChatTemplateError, match="Roles must alternate"):
        render_chat(ALTERNATING, [USER, USER])


def test_long_conversations_fit() -> None:
    """A thousand messages of 4 kB each, within the default limits and time."""
    messages = [{**(USER if i % 2 == 0 else REPLY), "content": "word " * 800} for i in range(1000)]
    assert len(render_chat(ALTERNATING, messages)) > 3_900_000
    with pytest.raises(ChatTemplateError, match="longer than 4194304 characters"):
        render_chat(ALTERNATING, messages * 2)


def test_limits_can_be_chosen() -> None:
    with pytest.raises(ChatTemplateError, match="longer than 3 characters"):
        render_chat("four", [USER], limits=ChatLimits(output_chars=3))
    with pytest.raises(ChatTemplateError, match="has 4 characters, more than 3"):
        render_chat("four", [USER], limits=ChatLimits(template_chars=3))


def test_importing_the_module_does_not_import_jinja2() -> None:
    code = "import sys, my_llm_ffi.chat;assert 'jinja2' not in sys.modules, 'jinja2 was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
