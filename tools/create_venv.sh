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

torch_of() {
  "$1" -c 'import importlib.metadata; print(importlib.metadata.version("torch"))' 2>/dev/null || true
}

installed=
if [ -z "$torch_spec" ] && [ -n "$(torch_of "$python")" ]; then
  "$python" -m venv --system-site-packages "$venv"
  installed=$(torch_of "$venv/bin/python") # none if PYTHON is itself in a virtual environment, which is not inherited
fi
[ -n "$installed" ] || "$python" -m venv --clear "$venv"

if [ -n "$installed" ]; then
  sed "s/^torch==.*/torch==$installed/" constraints.txt
elif [ -n "$torch_spec" ]; then
  sed '/^torch==/d' constraints.txt # the specification decides
else
  cat constraints.txt
fi >"$venv/constraints.txt"
