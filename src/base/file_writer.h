// A file that is there when all of it is written, and not before. Counterpart: file_writer.cc.
#pragma once
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <string>

namespace mlf {

/// Throws for a path that cannot be that of a plain file: ValueError for a null byte, OSError for a
/// named pipe (which would be waited for) or a device (which never ends). Messages begin with
/// `call`.
void RefuseIrregularFile(const char* call, const std::string& path);

/// Writes beside the target and takes its place when all is written; leaves nothing behind before.
class FileWriter {
 public:
  /// `call` begins messages ("save_state"), `what` is what is written ("the state file").
  FileWriter(const char* call, const char* what, const std::string& path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void Bytes(const void* data, size_t n);
  template <typename T>
  void Value(T value) {
    Bytes(&value, sizeof value);
  }
  int64_t position() const { return position_; }
  void Finish();

 private:
  void Check();

  std::string path_, part_, doing_;
  std::ofstream out_;
  int64_t position_ = 0;
  bool done_ = false;
};

}  // namespace mlf
