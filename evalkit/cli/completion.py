"""``evalkit completion SHELL``: a completion script made from the parsers themselves."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  evalkit completion bash > ~/.local/share/bash-completion/completions/evalkit
  evalkit completion zsh > ~/.zfunc/_evalkit              with 'fpath+=~/.zfunc' before compinit in ~/.zshrc
  evalkit completion fish > ~/.config/fish/completions/evalkit.fish
"""


@dataclass(frozen=True)
class Value:
    """What may stand for one argument: ``words``, else a file; neither where it is a number."""

    words: tuple[str, ...] = ()
    files: bool = False


@dataclass(frozen=True)
class Words:
    """What may follow ``evalkit`` and ``verb``, such as "eval" or "corpus build"."""

    verb: str
    summary: str
    flags: dict[str, tuple[Value | None, str]] = field(default_factory=dict)
    """Flag -> its value, None for a switch, and its help."""
    first: Value = Value()
    """An argument without a flag."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "completion",
        help="a script that completes verbs, flags and names in your shell",
        description="Print a completion script for a shell: verbs, flags, names of adapters and plans, files.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=list(SHELLS), metavar="SHELL", help=", ".join(SHELLS))


def run(args: argparse.Namespace) -> int:
    print(SHELLS[args.shell](list(vocabulary())), end="")
    return 0


def vocabulary() -> Iterator[Words]:
    """Every verb as installed here, and the verbs of a verb behind it."""
    from evalkit.adapters.registry import known
    from evalkit.cli.main import VERBS, verb_parser
    from evalkit.plan import PLANS

    names = {"adapter": tuple(known()), "plan": tuple(PLANS), "adapters name": tuple(known())}
    for verb, summary in VERBS.items():
        yield from _words(verb, summary, verb_parser(verb), names)


def _words(
    verb: str, summary: str, parser: argparse.ArgumentParser, names: Mapping[str, tuple[str, ...]]
) -> Iterator[Words]:
    flags, first, further = dict[str, tuple[Value | None, str]](), None, list[Words]()
    for action in parser._actions:
        told = " ".join(str(action.help or "").replace("%%", "%").split())
        if isinstance(action, argparse._SubParsersAction):
            inner = {choice.dest: str(choice.help) for choice in action._choices_actions}
            first = Value(tuple(action.choices))
            for name, each in action.choices.items():
                further += _words(f"{verb} {name}", inner[name], each, names)
        elif action.option_strings:
            value = None if action.nargs == 0 else _value(verb, action, names)
            flags.update((flag, (value, told)) for flag in action.option_strings)
        elif first is None:
            first = _value(verb, action, names)
    yield Words(verb, summary, flags, first or Value())
    yield from further


def _value(verb: str, action: argparse.Action, names: Mapping[str, tuple[str, ...]]) -> Value:
    named = names.get(f"{verb} {action.dest}") or names.get(action.dest) or ()
    words = tuple(map(str, action.choices or ())) or named
    return Value(words, files=not words and action.type in (None, Path))


def _bash(found: list[Words]) -> str:
    def ask(value: Value) -> str:
        return f"words={_quoted(value.words)} files={'yes' if value.files else 'no'}"

    def at(each: Words) -> str:
        return f"if [[ $cur == -* ]]; then words={_quoted(each.flags)}; else {ask(each.first)}; fi"

    alone = f"words={_quoted([*_verbs(found), '--help', '--version'])}"
    body = [
        'local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb="" words="" files=no',
        "COMPREPLY=()",
        *_walk(found, "COMP_CWORD", "COMP_WORDS", 1),
        'case "$verb $prev" in',
        *(f"    {_quoted([w.verb, flag])}) {ask(value)} ;;" for w, flag, value in _valued(found)),
        '    *) case "$verb" in',
        *(f"        {_quoted([w.verb])}) {at(w)} ;;" for w in found),
        f"        *) {alone} ;;",
        "    esac ;;",
        "esac",
        '[[ -z $words ]] || COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        "[[ $files == yes ]] || compopt +o default 2> /dev/null",
    ]
    last = "complete -o default -F _evalkit evalkit"
    return _script("bash", ["_evalkit() {", *(f"    {line}" for line in body), "}", last])


def _zsh(found: list[Words]) -> str:
    def ask(value: Value) -> str:
        if value.words:
            return f"compadd -- {' '.join(map(shlex.quote, value.words))}"
        return "_files" if value.files else "_message number"

    def told(pairs: Iterable[tuple[str, str]]) -> str:
        return f"said=({' '.join(shlex.quote(f'{word}:{text}') for word, text in pairs)})"

    def at(each: Words) -> str:
        flags = told((flag, text) for flag, (_, text) in each.flags.items())
        return f"if [[ $PREFIX == -* ]]; then {flags}; _describe -o flag said; else {ask(each.first)}; fi"

    body = [
        'local verb="" prev=${words[CURRENT-1]}',
        "local -a said",
        *_walk(found, "CURRENT", "words", 2),
        'case "$verb $prev" in',
        *(f"    {_quoted([w.verb, flag])}) {ask(value)} ;;" for w, flag, value in _valued(found)),
        '    *) case "$verb" in',
        *(f"        {_quoted([w.verb])}) {at(w)} ;;" for w in found),
        f"        *) {told((w.verb, w.summary) for w in found if ' ' not in w.verb)}; _describe verb said ;;",
        "    esac ;;",
        "esac",
    ]
    called = 'if [[ $funcstack[1] == _evalkit ]]; then _evalkit "$@"; else compdef _evalkit evalkit; fi'
    return "#compdef evalkit\n" + _script("zsh", ["_evalkit() {", *(f"    {line}" for line in body), "}", called])


def _fish(found: list[Words]) -> str:
    def ask(value: Value) -> str:
        return f"-x -a {_quoted(value.words)}" if value.words else "-r -F" if value.files else "-x"

    lines = [
        "function __evalkit_at",
        "    set -l said (commandline -opc)",
        "    set -l n (count $argv)",
        '    test $n -lt (count $said); and test "$said[2..$(math $n + 1)]" = "$argv"',
        "end",
        "function __evalkit_first",
        "    test (count (commandline -opc)) -eq 1",
        "end",
        "complete -c evalkit -f",
        "complete -c evalkit -n __evalkit_first -s h -l help -d 'every verb'",
        "complete -c evalkit -n __evalkit_first -l version",
    ]
    for each in found:
        here = f"complete -c evalkit -n '__evalkit_at {each.verb}'"
        if " " not in each.verb:
            lines.append(f"complete -c evalkit -n __evalkit_first -a {each.verb} -d {shlex.quote(each.summary)}")
        if each.first.words or each.first.files:
            lines.append(f"{here} {ask(each.first).removeprefix('-x ').removeprefix('-r ')}")
        for flag, (value, text) in each.flags.items():
            name = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
            lines.append(" ".join([here, name, *([ask(value)] if value else []), "-d", shlex.quote(text)]))
    return _script("fish", lines)


def _walk(found: list[Words], place: str, line: str, at: int) -> list[str]:
    """Shell lines that set ``verb`` from the words in front of the cursor; ``at``: the index of the verb's word."""
    inner = "|".join(_quoted([w.verb]) for w in found if " " in w.verb)
    both = f"${{{line}[{at}]}} ${{{line}[{at + 1}]}}"
    return [
        f"if (( {place} > {at} )); then verb=${{{line}[{at}]}}; fi",
        f'if (( {place} > {at + 1} )); then case "{both}" in {inner}) verb="{both}" ;; esac; fi',
    ]


def _valued(found: list[Words]) -> Iterator[tuple[Words, str, Value]]:
    """Every flag that takes a value."""
    for each in found:
        for flag, (value, _) in each.flags.items():
            if value is not None:
                yield each, flag, value


def _verbs(found: list[Words]) -> list[str]:
    return [w.verb for w in found if " " not in w.verb]


def _quoted(words: Iterable[str]) -> str:
    return shlex.quote(" ".join(words))


def _script(shell: str, lines: Sequence[str]) -> str:
    return "\n".join([f"# {shell} completion of evalkit, written by 'evalkit completion {shell}'", *lines, ""])


SHELLS: dict[str, Callable[[list[Words]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
