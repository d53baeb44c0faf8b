#!/bin/sh
# Makes the virtual environment with its own copy of constraints.txt:
#
#   create_venv.sh PYTHON VENV TORCH_SPEC
#
# Without a TORCH_SPEC, a PyTorch that PYTHON already has is used, whatever its version: it is large.
set -eu
python=$1
venv=$2
torch_spec=$3

installed=$("$python" -c 'import importlib.metadata; print(importlib.metadata.version("torch"))' 2>/dev/null || true)
if [ -z "$torch_spec" ] && [ -n "$installed" ]; then
  "$python" -m venv --system-site-packages "$venv"
  sed "s/^torch==.*/torch==$installed/" constraints.txt >"$venv/constraints.txt"
elif [ -n "$torch_spec" ]; then
  "$python" -m venv "$venv"
  sed '/^torch==/d' constraints.txt >"$venv/constraints.txt" # the specification decides
else
  "$python" -m venv "$venv"
  cp constraints.txt "$venv/constraints.txt"
fi
