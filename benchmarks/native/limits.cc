// Prints this machine's limits as JSON, for benchmarks/machine.py, which compiles this file alone.
//   limits THREADS WORKING_SET_BYTES FLOAT_LANES
#include "peaks.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: limits THREADS WORKING_SET_BYTES FLOAT_LANES\n");
    return 2;
  }
  const int threads = std::atoi(argv[1]), lanes = std::atoi(argv[3]);
  const int64_t bytes = std::atoll(argv[2]);
  // Small pages, as the tensors of the frameworks have them.
  std::printf("{\"copy\": %.6e, \"read\": %.6e, \"fma\": %.6e}\n",
              mlf::bench::CopyPeak(threads, bytes, /*huge=*/false),
              mlf::bench::ReadPeak(threads, bytes, /*huge=*/false),
              mlf::bench::FloatPeak(threads, lanes));
  return 0;
}
