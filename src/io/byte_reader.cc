// Checked reads of little-endian numbers and strings from a file's bytes. Counterpart:
// byte_reader.h.
#include "io/byte_reader.h"

#include <tvm/ffi/tvm_ffi.h>

#include "base/quote.h"

namespace mlf {

bool ByteReader::ReadBool(const char* what) {
  const uint8_t byte = Read<uint8_t>(what);
  if (byte > 1)
    Fail(position_ - 1, std::string(what) + " is " + std::to_string(byte) + ", expected 0 or 1");
  return byte == 1;
}

std::string_view ByteReader::ReadString(const char* what, uint64_t max_bytes) {
  const int64_t offset = position_;
  const uint64_t length = Read<uint64_t>(what);
  if (length > max_bytes)
    Fail(offset, std::string(what) + " has " + std::to_string(length) +
                     " bytes, expected at most " + std::to_string(max_bytes));
  if (length > static_cast<uint64_t>(remaining())) FailShort(what, length);
  const auto* text = reinterpret_cast<const char*>(begin_ + position_);
  position_ += static_cast<int64_t>(length);
  return {text, static_cast<size_t>(length)};
}

int64_t ByteReader::ReadCount(const char* what, int64_t min_bytes) {
  const int64_t offset = position_;
  const uint64_t count = Read<uint64_t>(what);
  CheckCount(what, count, min_bytes, offset);
  return static_cast<int64_t>(count);
}

void ByteReader::CheckCount(const char* what, uint64_t count, int64_t min_bytes,
                            int64_t offset) const {
  const int64_t most = remaining() / min_bytes;
  if (count <= static_cast<uint64_t>(most)) return;
  Fail(offset, std::string(what) + " is " + std::to_string(count) + ", expected at most " +
                   std::to_string(most) + ": each takes " + std::to_string(min_bytes) +
                   " bytes or more and " + std::to_string(remaining()) + " bytes remain");
}

void ByteReader::Fail(int64_t offset, const std::string& message, const char* kind) const {
  throw tvm::ffi::Error(kind,
                        Quoted(path_, path_.size()) + ": at byte " + std::to_string(offset) + ": " +
                            (subject_.empty() ? "" : subject_ + ": ") + message,
                        TVMFFIBacktrace(__FILE__, __LINE__, TVM_FFI_FUNC_SIG, 0));
}

void ByteReader::FailShort(const char* what, uint64_t bytes) const {
  Fail(position_, std::string(what) + " needs " + std::to_string(bytes) + " bytes, but only " +
                      std::to_string(remaining()) + " remain: the file is truncated or damaged");
}

}  // namespace mlf
