// Where the character class changes along the code points. Counterpart: unicode_tables.cc, written
// by scripts/gen_unicode_tables.py; read through unicode.h.
#pragma once
#include <cstddef>
#include <cstdint>

namespace mlf {

/// Each run is `first code point << 2 | CharClass`, ascending; it lasts to the next one.
extern const uint32_t kCharClassRuns[];
extern const size_t kCharClassRunCount;

}  // namespace mlf
