"""The help says of every option what it is, what it takes and what it would be."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffprune.config import help as module
from diffprune.config.compose import CONF, composed
from diffprune.config.help import comments, entry, help_text, limits, shown
from diffprune.config.validation import options

# Options whose names say it all.
PLAIN = ("name", "_target_", "source", "project", "entity", "timesteps")


def columns(count: int) -> Callable[[object], object]:
    return lambda _: SimpleNamespace(columns=count)


def test_every_option_is_listed_with_its_value_and_what_it_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "get_terminal_size", columns(120))
    cfg = composed(["pruner.ratio=.25"])
    lines = help_text(cfg, CONF).splitlines()
    listed = {line.split("=")[0].strip(): i for i, line in enumerate(lines) if line.startswith("  ") and "=" in line}
    for key, _, metadata in options(cfg):
        if metadata or not key.startswith("model."):
            line, below = lines[listed[key]], lines[listed[key] + 1]
            own = key.rpartition(".")[2]
            assert "  " in line.strip() or below.startswith(" " * 30) or own in PLAIN or "objective" in key, key
    assert "  pruner.ratio=0.25" in "\n".join(lines)
    ratio = listed["pruner.ratio"]
    assert "at least 0, below 1" in " ".join(" ".join(lines[ratio:ratio + 2]).split())


def test_comments_are_read_with_their_further_lines_and_their_place(tmp_path: Path) -> None:
    file = tmp_path / "default.yaml"
    file.write_text("# Of the whole file.\ndefaults:\n  - _self_\nratio: .3    # the fraction\n             # of each\n"
                    "plain: 1\npaths:      # where\n  runs: here    # run folders\nlast: {a: 1}   # at the end\n")
    assert dict(comments(file, "pruner")) == {
        "pruner.ratio": "the fraction of each", "pruner.paths": "where", "pruner.paths.runs": "run folders",
        "pruner.last": "at the end"}


@pytest.mark.parametrize(("metadata", "meaning", "words"), [
    ({"low": 0, "below": 1}, "", "at least 0, below 1"), ({"low": 1e-6, "below": 1}, "", "above 0, below 1"),
    ({"low": 0, "below": 2**31}, "", "at least 0"), ({"choices": ("a", "b")}, "", "a | b"),
    ({"choices": ("a", "b")}, "a: this | b: that", ""), ({}, "", "")])
def test_a_range_is_given_in_words_and_choices_only_once(metadata: dict, meaning: str, words: str) -> None:
    assert limits(metadata, meaning) == words


def test_values_are_shown_as_one_types_them() -> None:
    cfg = composed(["schedule.clip=null"])
    assert [shown(value) for value in (cfg.schedule.clip, cfg.dataset.flip, cfg.schedule.betas, cfg.pruner.ratio)] == [
        "null", "false", "[0.9, 0.999]", "0.3"]


def test_a_narrow_terminal_gets_narrow_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "get_terminal_size", columns(80))
    assert max(map(len, entry("pruner.scope=local", "word " * 60).splitlines())) <= 80


def test_a_dollar_in_a_value_is_no_placeholder() -> None:
    assert "/a$$b" in help_text(composed(["dataset.path=/a$b"]), CONF)
