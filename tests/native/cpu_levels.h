// Runs the tests of a file at every CPU level of this machine.
#pragma once
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "base/cpu.h"
#include "check.h"

namespace mlf {

/// Runs `tests` at the level that MY_LLM_FFI_CPU names; 2 where this CPU has no such level.
inline int RunAtNamedLevel(void (*tests)()) {
  try {
    CpuLevelInUse();
  } catch (const tvm::ffi::Error&) {
    return 2;
  }
  tests();
  return 0;
}

/// The level is chosen once per process: each one that this CPU has gets a process of its own. No
/// exec, because an emulator's child would leave the emulated CPU. What main() returns.
inline int RunAtEveryLevel(void (*tests)()) {
  if (std::getenv("MY_LLM_FFI_CPU") != nullptr) return RunAtNamedLevel(tests);
  for (const char* level : {"baseline", "avx2", "avx512", "dotprod"}) {
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
      setenv("MY_LLM_FFI_CPU", level, 1);
      std::exit(RunAtNamedLevel(tests));
    }
    int status = 0;
    MLF_EXPECT(waitpid(child, &status, 0) == child && WIFEXITED(status));
    std::printf("%s: %s\n", level,
                WEXITSTATUS(status) == 0   ? "passed"
                : WEXITSTATUS(status) == 2 ? "not on this CPU"
                                           : "FAILED");
    if (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 2) return 1;
  }
  return 0;
}

}  // namespace mlf
