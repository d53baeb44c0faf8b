#!/bin/sh
# GoogleTest comes from the system. Installs it where that is possible without asking (as root on Debian), else says how.
set -eu
found() { echo '#include <gtest/gtest.h>' | "${CXX:-c++}" -std=c++20 -x c++ -fsyntax-only - 2>/dev/null; }

found && exit 0
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libgtest-dev >/dev/null
  found && exit 0
fi
echo "missing: GoogleTest. Install it with: apt-get install libgtest-dev (Debian, Ubuntu), dnf install gtest-devel (Fedora)" >&2
exit 1
