"""Hostile chat templates: each ends with one ChatTemplateError, in little time and memory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from my_llm_ffi.chat import ChatTemplateError, render_chat

MESSAGES = [{"role": "user", "content": "x" * 1000}]
SECONDS = 1.0  # of this thread's CPU: what other processes of the machine do is not measured
DOUBLE = "{% set s = s ~ s %}"
NEST = "{% set l = [l, l] %}"
BIG = "{% set s = 'a' * 1000000 %}"

ATTACKS = {
    # output and repetition
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}"
    "{% endfor %}",
    "empty nested loops": "{% for a in range(99999) %}" * 15 + "{% endfor %}" * 15,
    "empty loops over a variable": "{% set r = range(99999) %}"
    + "{% for a in r %}" * 5
    + "{% endfor %}" * 5,
    "wide loop body": "{% for a in range(99999) %}" + "{{ '' }}" * 3000 + "{% endfor %}",
    "wide conditions": "{% for a in range(99999) %}{% if 1"
    + " and a is defined" * 150
    + "%}{% endif %}{% endfor %}",
    "long text in a loop": "{% for a in range(99999) %}" + "x" * 200_000 + "{% endfor %}",
    "long text in a block": "{% set t %}{% for a in range(99999) %}"
    + "x" * 200_000
    + "{% endfor %}{% endset %}",
    "huge range": "{{ range(10**18)|list }}",
    "huge range summed": "{% for i in range(99999) %}{{ range(99999)|sum }}{% endfor %}",
    "repeated string": "{{ 'a' * 10**9 }}",
    "repeated string, reversed operands": "{{ 10**9 * 'a' }}",
    "repeated list": "{{ ([0] * 10**9)|length }}",
    "repeated list, nested": "{{ ([[0] * 99999] * 99999)|string|length }}",
    "doubling by ~": "{% set s = 'aaaaaaaa' %}" + DOUBLE * 60 + "{{ s }}",
    "doubling by +": "{% set s = 'aaaaaaaa' %}" + "{% set s = s + s %}" * 60 + "{{ s }}",
    "doubling by a block": "{% set s = 'aaaa' %}" + "{% set s %}{{ s }}{{ s }}{% endset %}" * 60,
    "doubling in a namespace": "{% set n = namespace(s='a') %}{% for i in range(99) %}"
    "{% set n.s = n.s ~ n.s %}{% endfor %}",
    "doubling by join": "{% set s = 'aaaa' %}" + "{% set s = [s, s]|join %}" * 60,
    "doubling by format": "{% set s = 'aaaa' %}" + "{% set s = '%s%s' % (s, s) %}" * 60,
    "doubling by replace": "{% set s = 'a' %}" + "{% set s = s|replace('a', 'aa') %}" * 60,
    "replace of nothing": BIG + "{{ s.replace('', s) }}",
    "join of many": BIG + "{{ s.join(range(99999)|map('string')|list) }}",
    "list doubling": "{% set l = [1] %}" + "{% set l = l + l %}" * 60,
    "growing list in a loop": "{% set n = namespace(l=[]) %}{% for i in range(99999) %}"
    "{% set n.l = [n.l" + ", 0" * 500 + "] %}{% endfor %}",
    "slices kept": BIG + "{% set n = namespace(l=[]) %}{% for i in range(99999) %}"
    "{% set n.l = n.l + [s[i:]] %}{% endfor %}",
    "dicts kept": "{% set n = namespace(d={}) %}{% for i in range(99999) %}"
    "{% set n.d = {'a': n.d, 'b': dict(a=1, b=2), 'c': {1: 2}.copy()} %}{% endfor %}",
    # shared structure that explodes when it is walked
    "text of a nested list": "{% set l = [1, 2] %}" + NEST * 50 + "{{ l }}",
    "json of a nested list": "{% set l = [1, 2] %}" + NEST * 50 + "{{ l|tojson }}",
    "comparison of nested lists": "{% set l = [1] %}{% set m = [1] %}"
    + (NEST + "{% set m = [m, m] %}") * 50
    + "{{ l == m }}",
    "search in a nested list": "{% set l = [1] %}{% set m = [2] %}"
    + (NEST + "{% set m = [m, m] %}") * 50
    + "{{ m in l }}{{ l.index(m) }}",
    "equality test": "{% set l = [1] %}{% set m = [1] %}"
    + (NEST + "{% set m = [m, m] %}") * 50
    + "{{ l is eq(m) }}",
    "sorting nested lists": "{% set l = [1] %}{% set m = [1] %}"
    + (NEST + "{% set m = [m, m] %}") * 50
    + "{{ [l, m]|sort }}{{ [l, m]|max }}",
    "hash of a nested tuple": "{% set t = (1, 2) %}" + "{% set t = (t, t) %}" * 50 + "{{ {t: 1} }}",
    "unique nested tuples": "{% set t = (1, 2) %}"
    + "{% set t = (t, t) %}" * 50
    + "{{ [t]|unique|list }}",
    "key of a nested tuple": "{% set t = (1, 2) %}" + "{% set t = (t, t) %}" * 50 + "{{ {}[t] }}",
    "sum of lists": "{{ ([[0] * 9999] * 9999)|sum(start=[])|length }}",
    "sorting long equal strings": BIG + "{{ ([s ~ 'b', s ~ 'b'] * 20000)|sort|length }}",
    "self in a namespace": "{% set n = namespace() %}{% set n.n = n %}{{ n }}{{ [n]|tojson }}",
    "attribute names of nested lists": "{% set l = [1] %}"
    + NEST * 50
    + "{{ [1]|map(attribute=l)|list }}",
    "attr of a nested list": "{% set l = [1] %}" + NEST * 50 + "{{ 1|attr(l) }}",
    "sorting by a nested list": "{% set l = [1] %}" + NEST * 50 + "{{ [1]|sort(attribute=l) }}",
    "separators of nested lists": "{% set l = [1] %}"
    + NEST * 50
    + "{{ [1]|tojson(separators=(l, l)) }}",
    "test named by a nested list": "{% set l = [1] %}" + NEST * 50 + "{{ [1]|select(l)|list }}",
    "filter named by a nested tuple": "{% set t = (1, 2) %}"
    + "{% set t = (t, t) %}" * 50
    + "{{ [1]|map(t)|list }}",
    "arguments kept": "{% macro keep(n) %}{% set n.l = [n.l, varargs] %}{% endmacro %}"
    "{% set n = namespace(l=0) %}{% set r = range(99999)|list %}"
    "{% for i in r %}{{ keep(n, *r) }}{% endfor %}",
    "long error": BIG + "{{ raise_exception(s * 3) }}",
    # widths
    "percent flags": BIG + "{{ ('%' ~ '0' * 1000000) % 1 }}",
    "center by text": "{{ 'a'.center('9' * 1000000) }}",
    "center": "{{ 'a'|center(10**9) }}",
    "ljust": "{{ 'a'.ljust(10**9) }}",
    "zfill": "{{ 'a'.zfill(10**9) }}",
    "indent": "{{ 'a\nb'|indent(10**9) }}",
    "indent by a string": BIG + "{{ ('a\n' * 9999)|indent(s) }}",
    "json indent": "{{ [[[[[1]]]]]|tojson(indent=10**8) }}",
    "json separators": BIG + "{{ ([1] * 99999)|tojson(separators=(s, s)) }}",
    "percent width": "{{ '%1000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (10**9, 1) }}",
    "percent precision": "{{ '%.999999999f' % 1.5 }}",
    "percent with a name": "{{ '%(a b)1000000000d' % {'a b': 1} }}",
    "percent again and again": BIG + "{{ ('%(a)s' * 9999) % {'a': s} }}",
    "format filter": "{{ '%1000000000d'|format(1) }}",
    "format method": "{{ '{:1000000000}'.format(1) }}",
    "strftime": "{{ strftime_now('%999999999Y' * 99999) }}",
    "expandtabs": "{{ '\t'.expandtabs(10**9) }}",
    "to_bytes": "{{ (1).to_bytes(10**9, 'big') }}",
    # numbers
    "power": "{{ 10 ** (10 ** 10) }}",
    "power of a product": "{{ (9**99) ** (9**99) }}",
    "squaring": "{% set n = 9 %}" + "{% set n = n * n %}" * 99 + "{{ n }}",
    "long literal": "{{ " + "9" * 100_000 + " }}",
    "long text to int": "{{ ('9' * 60)|int ** 2 ** 20 }}",
    "round far left": "{{ 5|round(-10**9) }}",
    # searching
    "quadratic find": "{% set n = 'a' * 500000 ~ 'b' %}{{ n in 'a' * 2000000 }}",
    "quadratic strip": "{% set n = 'b' * 500000 ~ 'a' %}{{ ('a' * 2000000).strip(n) }}",
    "quadratic split": "{% set n = 'a' * 500000 ~ 'b' %}{{ ('a' * 2000000).split(n) }}",
    "many searches": "{% set h = 'a' * 60000 %}{% set n = 'a' * 1500 ~ 'b' %}"
    "{% for i in range(99999) %}{{ n in h }}{% endfor %}",
    "split to many": BIG + "{% for i in range(9999) %}{% set x = s.split('a') %}{% endfor %}",
    # recursion and depth
    "macro calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "macro calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}"
    "{% endmacro %}{{ m(60) }}",
    "recursive loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "recursive loop over a range": "{% for x in range(99999) recursive %}{{ loop(range(99999)) }}"
    "{% endfor %}",
    "loop length": "{% for a in range(99999) %}{% for b in range(99999) %}{{ loop.length }}"
    "{% break %}{% endfor %}{% endfor %}",
    "call blocks": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call m() %}" * 40
    + "x"
    + "{% endcall %}" * 40,
    "brackets": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
    "lists in lists": "{{ " + "[" * 2_000 + "]" * 2_000 + " }}",
    "nots": "{{ " + "not " * 60_000 + "1 }}",
    "minuses": "{{ " + "-" * 100_000 + "1 }}",
    "long sum": "{{ 1" + " + 1" * 60_000 + " }}",
    "long attribute": "{{ a" + ".a" * 100_000 + " }}",
    "long else": "{{ " + "1 if 0 else " * 20_000 + "1 }}",
    "nested ifs": "{% if 1 %}" * 12_000 + "{% endif %}" * 12_000,
    "nested fors": "{% for x in [1] %}" * 30 + "{% endfor %}" * 30,
    "nested sets": "{% set x %}" * 10_000 + "{% endset %}" * 10_000,
    "elifs": "{% if 1 %}" + "{% elif 1 %}" * 20_000 + "{% endif %}",
    "many names": "".join(f"{{% set v{i} = 1 %}}{{% if v{i} %}}{{% endif %}}" for i in range(5500)),
    "many macros": "".join(f"{{% macro m{i}() %}}{{% endmacro %}}" for i in range(7500)),
    "many filters": "{{ 1" + "|abs" * 60_000 + " }}",
    "longer than allowed": "x" * 1_000_000,
    # out of the sandbox
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class as an item": "{{ ''['__class__'] }}",
    "class through attr": "{{ ''|attr('__class__') }}",
    "class through map": "{{ ['']|map(attribute='__class__')|list }}",
    "class of a namespace": "{{ namespace()['__class__'] }}{{ namespace().__class__ }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "function of a partial": "{{ range.func }}",
    "arguments of a partial": "{{ 'a'.upper.args }}",
    "macro internals": "{% macro m() %}{% endmacro %}{{ m._environment }}",
    "template reference": "{{ self.__init__ }}{{ self._TemplateReference__context }}",
    "loop internals": "{% for x in [1] %}{{ loop._iterable }}{% endfor %}",
    "format reaches attributes": "{{ '{0.__class__}'.format(1) }}",
    "format_map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "list.append": "{{ messages.append(1) }}",
    "dict.update": "{{ messages[0].update({'role': 'x'}) }}",
    "encode": "{{ 'a'.encode() }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "from import": "{% from 'os' import path %}",
    "extends": "{% extends 'x' %}",
    "block": "{% block b %}{{ self.b() }}{% endblock %}",
    "autoescape": "{% autoescape 'a' * 10**9 %}x{% endautoescape %}",
    "lipsum": "{{ lipsum(10**6) }}",
    "cycler": "{{ cycler(1, 2).next() }}",
    "call of a number": "{{ (1)() }}",
    "filters that pay": "{{ 1|map('<literal>') }}",
    "unknown filter": "{{ 1|nope }}",
    "unknown test": "{{ [1]|select('nope')|list }}",
    "printed macro": "{% macro m() %}{% endmacro %}{{ m }}{{ [m] }}",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_ends_with_an_error(name: str) -> None:
    began = time.thread_time()
    with pytest.raises(ChatTemplateError) as caught:
        render_chat(ATTACKS[name], MESSAGES)
    assert time.thread_time() - began < SECONDS
    assert len(str(caught.value)) < 700


def test_deep_templates_under_a_high_recursion_limit() -> None:
    """The stack of the process is safe even where its guard is off."""
    code = (
        "import sys; sys.setrecursionlimit(10**8)\n"
        "from test_chat_sandbox import ATTACKS, MESSAGES\n"
        "from my_llm_ffi.chat import ChatTemplateError, render_chat\n"
        "for name in ATTACKS:\n"
        "    try: render_chat(ATTACKS[name], MESSAGES)\n"
        "    except ChatTemplateError: continue\n"
        "    raise SystemExit(name)\n"
    )
    run_beside_this_file(code)


def test_memory_stays_bounded() -> None:
    """All attacks in one process: its peak stays within a few times the budget of 128 MiB."""
    code = (
        "import resource\n"
        "from test_chat_sandbox import ATTACKS, MESSAGES, peak_mib\n"
        "from my_llm_ffi.chat import ChatTemplateError, render_chat\n"
        "for name in ATTACKS:\n"
        "    try: render_chat(ATTACKS[name], MESSAGES)\n"
        "    except ChatTemplateError: pass\n"
        "    if peak_mib() > 500: raise SystemExit(f'{name}: {peak_mib()} MiB')\n"
    )
    run_beside_this_file(code)


def peak_mib() -> int:
    """Largest resident size of this program so far (ru_maxrss would count its parent's too)."""
    status = Path("/proc/self/status").read_text("utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) >> 10


def run_beside_this_file(code: str) -> None:
    """Runs Python code that can import this file, in a process of its own."""
    prelude = f"import sys; sys.path.insert(0, {str(__file__).rpartition('/')[0]!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + code], stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]


def test_a_good_template_still_renders_afterwards() -> None:
    with pytest.raises(ChatTemplateError):
        render_chat(ATTACKS["nested loops"], MESSAGES)
    assert render_chat("{{ messages[0].role }}", MESSAGES) == "user"
