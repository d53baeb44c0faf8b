#!/bin/sh
# Checks for what only the system can provide, and says in one line how to get what is missing.
# Usage: require_system.sh PYTHON
set -eu
python=$1
debian=""
fedora=""
missing() {
  echo "missing: $1" >&2
  debian="$debian $2"
  fedora="$fedora $3"
}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  missing "Python 3.11 or newer (looked for '$python'; set PYTHON=... if yours has another name)" python3 python3
else
  "$python" -c 'import venv, ensurepip' 2>/dev/null || missing "Python's venv module" python3-venv python3
  header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
  [ -f "$header" ] || missing "Python's headers ($header)" python3-dev python3-devel
fi
program='#include <concepts>
#include <omp.h>
int main() { return std::integral<int> ? 0 : omp_get_max_threads(); }'
echo "$program" | "${CXX:-c++}" -std=c++20 -fopenmp -x c++ -fsyntax-only - 2>/dev/null ||
  missing "a C++20 compiler with OpenMP (looked for '${CXX:-c++}')" g++ gcc-c++

[ -n "$debian" ] || exit 0
if command -v apt-get >/dev/null 2>&1; then
  echo "install it with: apt-get install$debian" >&2
elif command -v dnf >/dev/null 2>&1; then
  echo "install it with: dnf install$fedora" >&2
else
  echo "install it with your system's package manager" >&2
fi
exit 1
