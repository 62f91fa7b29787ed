"""The rules of the house about who may import whom."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "bdgf_jax"
EVERYONE = {"errors", "progress", "compatibility", "caching", "precision"}
ALLOWED = {
    "scenes": set(),
    "diffusion": set(),
    "classifier": set(),
    "training": set(),
    "evaluation": {"scenes"},
}


def imported(path: pathlib.Path) -> set[str]:
    """First-level members of bdgf_jax that a file imports."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "bdgf_jax":
            modules |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bdgf_jax."):
            modules.add(node.module.split(".")[1])
    return modules


@pytest.mark.parametrize("package", ALLOWED)
def test_a_stretch_of_the_road_imports_only_what_it_may(package):
    for path in sorted((PACKAGE / package).rglob("*.py")):
        strangers = imported(path) - ALLOWED[package] - EVERYONE - {package, "__version__"}
        assert not strangers, f"{path.name} imports {sorted(strangers)}"


def test_no_module_imports_in_a_circle():
    files = {
        path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", "."): path
        for path in PACKAGE.rglob("*.py")
    }
    edges = {}
    for name, path in files.items():
        targets = {
            node.module for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom) and node.module
        }
        edges[name] = targets & set(files)

    def visit(name, trail):
        assert name not in trail, " -> ".join([*trail, name])
        for target in edges[name]:
            visit(target, [*trail, name])

    for name in files:
        visit(name, [])


def test_prediction_imports_no_optimiser():
    # Flax imports optax by itself; what prediction must not need is our side of it.
    program = (
        "import sys, bdgf_jax.cli, bdgf_jax.mapping, bdgf_jax.scoring\n"
        "strangers = {'bdgf_jax.training.optimiser', 'bdgf_jax.training.loop', 'bdgf_jax.fitting'} & set(sys.modules)\n"
        "assert not strangers, strangers"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PACKAGE.parent)
