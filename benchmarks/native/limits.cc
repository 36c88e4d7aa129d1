// This machine's limits as a library for machine.py, which compiles this file alone and loads it
// beside the ops: a limit is measured in turns with what it bounds.
#include "peaks.h"

namespace {

using mlf::bench::Memory;

struct Limits {
  int threads, lanes;
  Memory memory;  // small pages, as the tensors of the frameworks have them
  decltype(mlf::bench::PlainCopy)* copy = mlf::bench::PlainCopy;
};

double Copy(const Limits& limits) {
  return mlf::bench::CopySpeed(limits.threads, limits.memory, limits.copy);
}

}  // namespace

extern "C" {

/// `bytes`: working set of copy and read; `lanes`: floats per register. Never freed.
__attribute__((visibility("default"))) void* LimitsNew(int threads, int64_t bytes, int lanes) {
  auto* limits = new Limits{threads, lanes, Memory(bytes, /*huge=*/false)};
  const double plain = mlf::bench::Best([&] { return Copy(*limits); });
  limits->copy = mlf::bench::StreamCopy;
  if (mlf::bench::Best([&] { return Copy(*limits); }) < plain) {
    limits->copy = mlf::bench::PlainCopy;
  }
  return limits;
}

/// One measurement, units per second: bytes of 'c'opy (read and written) or 'r'ead, 'f'loat
/// operations; 0 where it is not known how.
__attribute__((visibility("default"))) double LimitsMeasure(void* handle, char what) {
  const auto& limits = *static_cast<const Limits*>(handle);
  if (what == 'c') return Copy(limits);
  if (what == 'r') return mlf::bench::ReadSpeed(limits.threads, limits.memory);
  return mlf::bench::FloatSpeed(limits.threads, limits.lanes);
}

}  // extern "C"
