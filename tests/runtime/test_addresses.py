"""The secrets of an address reach its server and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diffprune.config.naming import masked, run_name
from diffprune.runtime.addresses import KEPT, complete_address, hide_secrets, without_secrets
from tests.conftest import ROOT

SECRET = "https://user:s3cr3t@host.org/x.ckpt?token=s3cr3t&id=7"


@pytest.mark.parametrize("text", [
    SECRET, f"model.checkpoint='{SECRET}'", f'model.checkpoint="{SECRET}"', f"checkpoint: {SECRET}\nseed: 0",
    f"['{SECRET}', '{SECRET}']", f"a={SECRET},{SECRET}", "https://s3cr3t@host.org/x", "https://host.org/x?s3cr3t",
    "https://host.org/x?key=s3cr3t==", "https://host.org/it's/a,b?key=s3cr3t", "https://user:o's3cr3t@host.org/x",
    "https://host.org/x#key=s3cr3t", "https://host.org/x?key=***&other=s3cr3t"])
def test_no_form_of_an_address_keeps_its_secrets(text: str) -> None:
    clean = without_secrets(text)
    assert "s3cr3t" not in clean
    assert without_secrets(clean) == clean
    assert clean.count("host.org/") == text.count("host.org/")


@pytest.mark.parametrize("text", ["https://host.org/a/@b/x.ckpt", "runs/digits=1?a=2", "owner/name", "user:pw@host"])
def test_what_has_no_secret_stays_as_it_is(text: str) -> None:
    assert without_secrets(text) == text


def test_addresses_of_two_files_stay_two() -> None:
    first, second = (without_secrets(f"https://host.org/get?id={number}") for number in "12")
    assert first != second
    assert first.startswith("https://host.org/get?id=***-")


def test_the_command_line_is_read_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEPT, "{}")
    monkeypatch.setattr(sys, "argv", ["diffprune", "seed=0", f'model.checkpoint="{SECRET}"'])
    hide_secrets()
    assert sys.argv == ["diffprune", "seed=0", f'model.checkpoint="{without_secrets(SECRET)}"']
    assert complete_address(without_secrets(SECRET)) == SECRET
    assert complete_address("https://host.org/other") == "https://host.org/other"


def test_a_configuration_is_kept_without_the_secrets_that_a_file_of_options_gives_it(config) -> None:
    cfg = config(f'model.checkpoint="{SECRET}"')
    kept = masked(cfg)
    assert kept.model.checkpoint == without_secrets(SECRET)
    assert cfg.model.checkpoint == SECRET
    assert run_name(OmegaConf.merge(cfg, kept)) == run_name(cfg)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["command line", "file of options"])
def test_a_run_keeps_no_secret_of_an_address(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, where: str) -> None:
    address = "http://user:s3cr3t@127.0.0.1:9/x.ckpt?token=s3cr3t"
    own = tmp_path_factory.mktemp("conf")
    (own / "options").mkdir()
    (own / "options" / "mine.yaml").write_text(f"# @package _global_\nmodel: {{checkpoint: '{address}'}}\n")
    given = [f'model.checkpoint="{address}"'] if where == "command line" else [f"--config-dir={own}", "+options=mine"]
    done = subprocess.run(
        [sys.executable, "-m", "diffprune", "-m", *given, "experiment=smoke", "logger=wandb",
         f"paths.runs={tmp_path}/runs", f"paths.cache={tmp_path}/cache"],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"WANDB_MODE": "offline"})
    assert done.returncode == 1
    assert f"{without_secrets(address)} could not be fetched" in done.stderr
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"multirun.yaml", "config.yaml", "status.json", "diffprune.log", "debug.log"} <= {file.name for file in files}
    for text in (done.stdout, done.stderr, *(file.read_text(errors="replace") for file in files)):
        assert "s3cr3t" not in text
