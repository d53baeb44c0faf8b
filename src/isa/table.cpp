#include "kernels/table.hpp"

namespace transfuse {

const KernelTable& kernels(Isa isa) {
  switch (isa) {
    case Isa::avx512: return avx512::table;
    case Isa::avx2: return avx2::table;
    case Isa::scalar: break;
  }
  return scalar::table;
}

}  // namespace transfuse
