// driver CASE OUT: runs a parity case through the C++ client and writes the case with the results.
// Counterparts: case.h, dispatch.h (generated), tests/parity/c/driver.c.
#include <cstdio>

#include "dispatch.h"

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    const Case c = Case::ReadFile(argv[1]);
    const auto op = Ops().find(c.op());
    if (op == Ops().end()) throw my_llm_ffi::Error("KeyError", c.op(), "");
    op->second(c);
    c.WriteFile(argv[2]);
    return 0;
  } catch (const my_llm_ffi::Error& error) {
    std::fprintf(stderr, "%s: %s\n", error.kind().c_str(), error.message().c_str());
    return 1;
  }
}
