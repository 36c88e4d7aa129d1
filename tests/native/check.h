// Checks for native tests: a failed one prints its place and ends the program with status 1.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#define MLF_EXPECT(condition)                                                       \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                 \
    }                                                                               \
  } while (false)

/// The expression must throw a tvm-ffi error of `kind` whose message contains `part`.
#define MLF_EXPECT_THROWS(expression, kind_, part)                                           \
  do {                                                                                       \
    try {                                                                                    \
      (void)(expression);                                                                    \
      std::fprintf(stderr, "%s:%d: %s did not throw\n", __FILE__, __LINE__, #expression);    \
      std::exit(1);                                                                          \
    } catch (const tvm::ffi::Error& e) {                                                     \
      if (e.kind() != (kind_) || std::string(e.message()).find(part) == std::string::npos) { \
        std::fprintf(stderr, "%s:%d: %s threw %s: %s\n", __FILE__, __LINE__, #expression,    \
                     std::string(e.kind()).c_str(), std::string(e.message()).c_str());       \
        std::exit(1);                                                                        \
      }                                                                                      \
    }                                                                                        \
  } while (false)
