// Checked reads of little-endian numbers and strings from a file's bytes. Counterpart:
// byte_reader.cc.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

namespace mlf {

static_assert(std::endian::native == std::endian::little, "numbers are read as the file has them");

/// Reads forward through `size` bytes and never past them. Messages name the path, the byte offset,
/// the subject (what is being read, set by the caller) and `what` of it is wrong.
class ByteReader {
 public:
  ByteReader(const std::string& path, const uint8_t* begin, int64_t size)
      : path_(path), begin_(begin), size_(size) {}

  int64_t position() const { return position_; }
  int64_t remaining() const { return size_ - position_; }
  void set_subject(std::string subject) { subject_ = std::move(subject); }

  template <typename T>
  T Read(const char* what) {
    static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
    if (remaining() < static_cast<int64_t>(sizeof(T))) FailShort(what, sizeof(T));
    T value;
    std::memcpy(&value, begin_ + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  /// One byte, 0 or 1.
  bool ReadBool(const char* what);

  /// A 64-bit length and that many bytes; a view into the file.
  std::string_view ReadString(const char* what, uint64_t max_bytes = UINT64_MAX);

  /// A 64-bit number of things of which each takes at least `min_bytes` of what remains, so that
  /// room for them may be allocated.
  int64_t ReadCount(const char* what, int64_t min_bytes);
  void CheckCount(const char* what, uint64_t count, int64_t min_bytes, int64_t offset) const;

  /// Throws an error of `kind`: `"path": at byte 24: subject: message`.
  [[noreturn]] void Fail(int64_t offset, const std::string& message,
                         const char* kind = "ValueError") const;

 private:
  [[noreturn]] void FailShort(const char* what, uint64_t bytes) const;

  const std::string& path_;
  const uint8_t* begin_;
  int64_t size_;
  int64_t position_ = 0;
  std::string subject_;
};

}  // namespace mlf
