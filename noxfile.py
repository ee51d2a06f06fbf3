"""Everything that is checked, built or shown, as nox sessions. CONTRIBUTING.md says when to run which."""

from __future__ import annotations

import re
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests", "docs"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
EXTRAS = ",".join(PYPROJECT["project"]["optional-dependencies"])
PYTHONS = nox.project.python_versions(PYPROJECT)
DIST = Path("dist")
SECONDS_TO_STOP_SERVERS = 20
IN_PARALLEL = ("-n", "3")
"""Three processes, also on two processors: most tests wait for something. After ``--``, ``-n 0`` still has its say."""

SLOW_WHEN_TRACED = ("tests/test_demo.py", "tests/browser", "tests/test_alert_kills.py")
"""Under coverage these take minutes, and run no line that no other test does."""


def install(session: nox.Session, group: str, *constraints: str) -> None:
    """Install slowspan with all its extras, editable, and a dependency group."""
    session.install("-e", f".[{EXTRAS}]", *nox.project.dependency_groups(PYPROJECT, group), *constraints)


def lowest_versions() -> list[str]:
    """Return the lowest version that pyproject.toml allows of each dependency, as requirements."""
    project = PYPROJECT["project"]
    requirements = set(project["dependencies"]).union(*project["optional-dependencies"].values())
    of_others = sorted(requirement for requirement in requirements if not requirement.startswith("slowspan"))
    return [re.sub(r">=([^,;]+)(,[^;]+)?", r"==\1", requirement) for requirement in of_others]


@nox.session
def lint(session: nox.Session) -> None:
    """Check the style of the Python and the shell code."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("shellcheck", ".ci/run")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types, and that every public name has them."""
    install(session, "types")
    session.run("mypy")
    session.run("pyright", "--ignoreexternal", "--verifytypes", "slowspan")


@nox.session
def tests(session: nox.Session) -> None:
    """Run all the tests on the Python that runs nox."""
    install(session, "test")
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session(python=PYTHONS)
def pythons(session: nox.Session) -> None:
    """Run all the tests on every supported Python that is here."""
    install(session, "test")
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """Run all the tests on the oldest Python with the oldest dependencies that pyproject.toml allows."""
    # Flask before 3.0 does not work with the Werkzeug that pip would choose for it.
    install(session, "test-oldest", *lowest_versions(), "werkzeug<3")
    # The oldest OpenTelemetry has no declarative configuration, so that its test may skip in CI too.
    session.run("pytest", *IN_PARALLEL, *session.posargs, env={"SLOWSPAN_REQUIRE_ALL": ""})


@nox.session(python=PYTHONS[-1])
def newest(session: nox.Session) -> None:
    """Run all the tests on the newest Python with the newest dependencies."""
    install(session, "test", "--upgrade")
    session.run("pytest", *session.posargs)


def measure_coverage(session: nox.Session) -> None:
    """Run the tests under coverage, their servers' processes too; fail below the share that pyproject.toml names."""
    session.run("coverage", "erase")
    others = [f"--ignore={path}" for path in SLOW_WHEN_TRACED]
    session.run("coverage", "run", "-m", "pytest", *IN_PARALLEL, *others, *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure the tests' coverage of the checkout; the session wheel does so with what is installed."""
    install(session, "test")
    measure_coverage(session)


@nox.session
def build(session: nox.Session) -> None:
    """Build the packages into dist and check their metadata."""
    session.install("build", "twine")
    for old in DIST.glob("slowspan-*"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", str(DIST))
    session.run("twine", "check", "--strict", *map(str, DIST.glob("slowspan-*")))


@nox.session(requires=["build"], reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """Run all the tests against the installed wheel, after a look at what it does without its extras.

    Measures their coverage, their servers' processes included; fails below that of pyproject.toml.
    """
    (built,) = DIST.glob("slowspan-*.whl")
    session.install(str(built))
    session.run("python", "-c", "import slowspan; slowspan.SlowSpanProcessor().shutdown()")
    session.install(f"{built}[flask]")
    session.run("python", "tests/apps/only_flask.py")
    session.install(f"{built}[{EXTRAS}]", *nox.project.dependency_groups(PYPROJECT, "test"))
    session.run("slowspan", "--help")
    # With a choice of tests in the arguments there may be none among these, and so code 5.
    none_too = (0, 5) if session.posargs else (0,)
    session.run("pytest", *IN_PARALLEL, *SLOW_WHEN_TRACED, *session.posargs, success_codes=none_too)
    measure_coverage(session)


@nox.session
def docs(session: nox.Session) -> None:
    """Check that the documentation's links resolve, and that its examples and the programs in examples run."""
    install(session, "test")
    session.run("pytest", "tests/test_docs.py", "tests/test_examples.py", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Show what slowspan finds out about a shop's slow pages."""
    install(session, "demo")
    session.run("python", "examples/shop/demo.py", *session.posargs, interrupt_timeout=SECONDS_TO_STOP_SERVERS)


@nox.session
def downstream(session: nox.Session) -> None:
    """Run the tests of web frameworks with slowspan watching each request; fail if one ends otherwise than without."""
    session.install("-e", ".", "pip", "-r", "tests/downstream/requirements.txt")
    # Not the session's temporary directory: in a path as long as that, sockets could not have names.
    session.run("python", "tests/downstream/run.py", str(session.cache_dir / "downstream"), *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what slowspan costs, beside a control in the same run."""
    install(session, "bench")
    session.run("python", "-m", "bench", *session.posargs)
