"""Fresh Python processes, for what cannot be undone in this one."""

import os
import subprocess
import sys
import textwrap


def run_python(program, *arguments, environment=None, check=True):
    """Run a program text in a fresh interpreter, warnings being errors, and return the completed process.

    `environment` is added to this process's; a value of None removes the variable.
    """
    variables = dict(os.environ)
    for name, value in (environment or {}).items():
        if value is None:
            variables.pop(name, None)
        else:
            variables[name] = value
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), *arguments],
        env=variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if check:
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def run_module(*arguments, environment=None):
    """``python -m transfuse`` with arguments."""
    variables = dict(os.environ) | (environment or {})
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "transfuse", *arguments],
        env=variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
