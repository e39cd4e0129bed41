"""Do the completion scripts name every verb and flag, and does a shell take them?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit.adapters.registry import known
from evalkit.cli.completion import SHELLS, Words, vocabulary
from evalkit.cli.main import VERBS, main, verb_parser
from evalkit.plan import PLANS

FOUND = list(vocabulary())


def script(shell: str) -> str:
    return SHELLS[shell](FOUND)


def at(verb: str) -> Words:
    return next(words for words in FOUND if words.verb == verb)


def test_every_verb_and_every_flag_of_the_parsers_is_in_the_vocabulary() -> None:
    assert {w.verb for w in FOUND} - set(VERBS) == {"corpus build", "corpus check", "corpus attach"}
    for verb in VERBS:
        assert set(at(verb).flags) == set(verb_parser(verb)._option_string_actions)
    assert "--like" in at("corpus build").flags
    assert at("eval").flags["--no-sentinel"][0] is None


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_names_every_verb_and_flag_adapter_and_plan(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    assert printed == script(shell)
    for each in FOUND:
        assert each.verb in printed
        for flag in each.flags:
            spelled = {
                "fish": f"'__evalkit_at {each.verb}' -{'l' if flag.startswith('--') else 's'} {flag.lstrip('-')} "
            }
            assert spelled.get(shell, flag) in printed
    assert all(name in printed for name in (*known(), *PLANS))


def test_an_unknown_shell_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["completion", "tcsh"])
    assert left.value.code == 2
    assert "bash" in capsys.readouterr().err


def test_a_script_is_printed_without_torch() -> None:
    code = (
        "import sys; from evalkit.cli.main import main; main(['completion', 'bash']); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_parses_its_script(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(script(shell), encoding="utf-8")
    done = subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("line", "want"),
    [
        ("evalkit ev", ["eval"]),
        ("evalkit c", ["corpus", "certify", "compare", "completion"]),
        ("evalkit corpus ", ["build", "check", "attach"]),
        ("evalkit corpus build --li", ["--like"]),
        ("evalkit eval --text a.txt --ada", ["--adapter"]),
        ("evalkit eval --adapter ppm --adapter lora", ["lora_ttt", "lora_lanes"]),
        ("evalkit eval --plan s", ["sliding"]),
        ("evalkit eval --limit-tokens ", []),
        ("evalkit adapters te", ["temperature"]),
        ("evalkit completion ", ["bash", "zsh", "fish"]),
        ("evalkit --ver", ["--version"]),
    ],
)
def test_bash_completes(line: str, want: list[str], tmp_path: Path) -> None:
    (tmp_path / "script").write_text(script("bash"), encoding="utf-8")
    ask = 'source "$1"; shift; complete -p evalkit > /dev/null || exit 1; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _evalkit'
    words = [*line.split(" ")]
    done = subprocess.run(
        ["bash", "-c", f'{ask}; printf "%s\\n" "${{COMPREPLY[@]}}"', "bash", str(tmp_path / "script"), *words],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert done.stdout.split() == want
