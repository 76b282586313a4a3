"""The public names and their signatures stay as they are until the version says otherwise; each has an example that runs.

Where a signature changes on purpose, change it here too, and say so in CHANGELOG.md.
"""

import doctest
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cannonade

SIGNATURES = {
    "AttackResult": "(images, gradients, forwards, nonfinite, zero, chunk)",
    "AutoPGD": (
        "(*, eps=0.03137254901960784, steps=100, norm='linf', loss='cross_entropy', restarts=1, "
        "random_start=True, rho=0.75, eval_samples=None, gradient=<factory>)"
    ),
    "Classifier": (
        "(module, *, mean=(0, 0, 0), std=(1, 1, 1), input_size=None, num_classes=None, class_names=None, "
        "class_numbers=None, fold_batch_norm=True, channels_last=True, autocast=None, compile=False, name='')"
    ),
    "DefendedClassifier": (
        "(classifier, defense, *, seed=0, randomness='fresh', samples=1, average='logits', chunk=None, checkpoint=False)"
    ),
    "Draws": "(seed, phase, images, queries, node=tensor(0), heads=None, depth=0)",
    "EOT": "(*, samples=1, average='loss', common=False, chunk='auto')",
    "Mixed": "(labels, targets)",
    "PGD": (
        "(*, eps=0.03137254901960784, steps=50, step_size=0.00392156862745098, norm='linf', "
        "random_start=False, loss='cross_entropy', schedule='constant', momentum=0.0, direction='steepest', "
        "order='project_clip', restarts=1, freeze_every=0, selection_votes=20, stop=False, gradient=<factory>)"
    ),
    "Targeted": "(targets, labels=None)",
    "Transform": "(*, backward='own')",
    "Untargeted": "(labels)",
    "Votes": "(counts, labels, forwards, chunk, reading='majority', means=None)",
    "build_defense": "(text)",
    "evaluate_batch": (
        "(defended, images, labels, attack, *, votes, stop=None, alpha=0.001, targets=None, ids=None, chunk='auto', "
        "benign=None, shared_draws=False, watch=None)"
    ),
    "load_model": (
        "(name, *, weights=None, num_classes=None, classes=None, device='cpu', autocast=None, compile=False)"
    ),
    "majority_vote": (
        "(defended, images, n, *, stop=None, alpha=0.001, reading='majority', phase=<Phase.FINAL_VOTE: 4>, "
        "ids=None, chunk='auto')"
    ),
    "open_source": "(name)",
}


def plain_signature(name):
    """Names, kinds and defaults; annotations are mypy's to keep."""
    found = inspect.signature(getattr(cannonade, name))
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in found.parameters.values()]
    return str(inspect.Signature(bare))


def test_public_names_are_frozen():
    assert set(cannonade.__all__) == {*SIGNATURES, "InputError", "Phase"}
    assert issubclass(cannonade.InputError, ValueError)
    assert [phase.name for phase in cannonade.Phase] == PHASES
    assert [phase.value for phase in cannonade.Phase] == list(range(len(PHASES))), "they are a part of every draw's key"


PHASES = [
    "ATTACK", "START", "SELECTION", "BENIGN_VOTE", "FINAL_VOTE", "NULL_VOTE", "CERTIFY_SELECT", "CERTIFY_ESTIMATE",
    "TRAINING", "FORWARD", "ORDER", "INVARIANCE",
]  # fmt: skip


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_frozen(name):
    assert plain_signature(name) == SIGNATURES[name]


# What only some functions need, and what takes as long to import as our own modules together or longer.
HEAVY = (
    "kornia", "torchvision", "nvidia", "matplotlib", "jinja2", "rich", "typer", "scipy", "skimage", "foolbox",
    "cannonade.bench", "cannonade.cli", "cannonade.experiments", "cannonade.integrations", "cannonade.training",
)  # fmt: skip


def test_public_names_import_nothing_heavy():
    code = (
        "import sys, cannonade; print('torch' in sys.modules); [getattr(cannonade, name) for name in cannonade.__all__]; "
        f"print('torch' in sys.modules, [name for name in {HEAVY} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["False", "True []"]


@pytest.mark.parametrize("name", cannonade.__all__)
def test_every_name_has_an_example_that_runs(name):
    public = getattr(cannonade, name)
    module = sys.modules[public.__module__]
    (example,) = doctest.DocTestFinder(recurse=False).find(public, name, module, dict(vars(module)))
    assert example.examples, f"{name} has no example in its docstring"
    report = []
    failed, _ = doctest.DocTestRunner().run(example, out=report.append)
    assert not failed, "".join(report)


def test_the_changelog_knows_the_version():
    root = Path(__file__).parents[1]
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (root / "CHANGELOG.md").read_text()
