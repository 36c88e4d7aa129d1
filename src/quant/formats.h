// Weight formats at run time: found by number or name. The list is quant/format_list.h, one header
// per format. Counterpart: formats.cc.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "quant/format_list.h"

namespace mlf {

struct FormatInfo {
  Format format;
  const char* name;     // as in GGUF tools: "Q4_0"
  int64_t block;        // weights per block; 1 for float formats
  int64_t block_bytes;  // bytes per block in the file's layout
  void (*dequantize_row)(const uint8_t* row, float* out,
                         int64_t cols);  // cols is a multiple of block
};

/// nullptr for a number or name that this library does not know.
const FormatInfo* FindFormat(int64_t gguf_type);
const FormatInfo* FindFormat(std::string_view name);

const FormatInfo& InfoOf(Format format);

/// "F32, F16, Q4_0, …" for messages.
std::string FormatNames();

/// Bytes of one row of the file's layout; cols is a multiple of the format's block.
inline int64_t RowBytes(Format format, int64_t cols) {
  const FormatInfo& info = InfoOf(format);
  return cols / info.block * info.block_bytes;
}

}  // namespace mlf
