// A file's bytes, mapped or read into memory. Counterpart: mmap.cc.
#pragma once
#include <cstdint>
#include <string>

namespace mlf {

/// Read-only bytes of a regular file at one address for the object's life. A file that shrinks
/// while it is mapped ends the process at the next touch of what is gone (SIGBUS): ReadIntoMemory
/// guards against that.
class MappedFile {
 public:
  /// Throws FileNotFoundError, PermissionError, IsADirectoryError, MemoryError or OSError naming
  /// the path and the system's reason.
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  const uint8_t* data() const { return data_; }  // page-aligned; nullptr for an empty file
  int64_t size() const { return size_; }
  bool Contains(const uint8_t* p) const { return p >= data_ && p < data_ + size_; }

  /// Puts a copy in memory in the mapping's place: pointers into it stay valid. OSError where the
  /// file cannot be read or has become shorter, MemoryError where it does not fit.
  void ReadIntoMemory();

  /// Keeps the bytes resident. RuntimeError, with the limit, where the system forbids it.
  void Lock();

  /// Gives the whole pages inside [begin, begin + bytes) back to the system, locked or not; touched
  /// again, they come back from the file. Advice only: never fails.
  void Release(const uint8_t* begin, int64_t bytes) const noexcept;

 private:
  MappedFile() = default;

  std::string path_;
  int fd_ = -1;
  uint8_t* data_ = nullptr;
  int64_t size_ = 0;
  bool in_memory_ = false;
  bool locked_ = false;
};

}  // namespace mlf
