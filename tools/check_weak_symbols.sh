#!/bin/sh
# Code compiled for an instruction set must not end up serving everyone. A weak symbol in an ISA object may be the copy
# that the linker keeps for the whole program, so there must be none outside transfuse::<tier>.
# Usage: check_weak_symbols.sh BUILD_FOLDER...
set -eu
status=0
for build in "$@"; do
  for tier in scalar avx2 avx512; do
    object="$build/CMakeFiles/transfuse_isa_$tier.dir/src/isa/$tier.cpp.o"
    [ -f "$object" ] || { echo "no such object: $object" >&2; exit 1; }
    weak=$(nm -C "$object" | grep -E '^[0-9a-f ]+ [VvWwu] ' | grep -vE " transfuse::$tier::| DW\.ref\." || true)
    if [ -n "$weak" ]; then
      printf '%s has weak symbols outside transfuse::%s:\n%s\n' "$object" "$tier" "$weak" >&2
      status=1
    fi
  done
done
exit $status
