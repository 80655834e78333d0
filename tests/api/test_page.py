"""What docs/library.md shows works as it stands there."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "library.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in BLOCKS:
        exec(compile(block, "docs/library.md", "exec"), names)
    (report,) = re.findall(r"# (PruneReport\(.*\))", PAGE)
    assert report in capsys.readouterr().out
    assert names["other"].unet.conv_in.out_channels < 32
    assert names["again"].unet.conv_in.out_channels == names["pipeline"].unet.conv_in.out_channels
    assert names["elsewhere"].unet.conv_in.out_channels == names["pipeline"].unet.conv_in.out_channels
    assert names["result"].scores["ssim"] > 0
