import importlib.metadata
import re

import jax
import pytest

from bdgf_jax import cli, versions


def test_versions_and_devices_are_told_and_the_program_left(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"bdgf {importlib.metadata.version('bdgf-jax')}\n")
    for library, version in versions.versions().items():
        assert library == "bdgf-jax" or f"{library} {version}" in text
    devices = re.search(r"^devices: (.*)$", text, re.MULTILINE)
    assert devices
    assert devices[1] == f"{jax.device_count()} × cpu (cpu)"
