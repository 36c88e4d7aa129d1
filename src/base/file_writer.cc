// A file that is there when all of it is written. Counterpart: file_writer.h.
#include "base/file_writer.h"

#include <tvm/ffi/tvm_ffi.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "base/os_error.h"

namespace mlf {

void RefuseIrregularFile(const char* call, const std::string& path) {
  if (path.find('\0') != std::string::npos)
    TVM_FFI_THROW(ValueError) << call << ": path " << QuotedPath(path) << " contains a null byte";
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    TVM_FFI_THROW(OSError) << call << ": " << QuotedPath(path) << " is not a regular file";
}

FileWriter::FileWriter(const char* call, const char* what, const std::string& path)
    : path_(path), part_(path + ".part"), doing_(std::string("write ") + what) {
  RefuseIrregularFile(call, path);
  out_.open(part_, std::ios::binary | std::ios::trunc);
  Check();
}

FileWriter::~FileWriter() {
  if (!done_ && out_.is_open()) std::remove(part_.c_str());
}

void FileWriter::Bytes(const void* data, size_t n) {
  out_.write(static_cast<const char*>(data), static_cast<std::streamsize>(n));
  Check();
  position_ += static_cast<int64_t>(n);
}

void FileWriter::Finish() {
  out_.flush();
  Check();
  if (std::rename(part_.c_str(), path_.c_str()) != 0) ThrowErrno(errno, path_, doing_.c_str());
  done_ = true;
}

void FileWriter::Check() {
  if (!out_) ThrowErrno(errno, part_, doing_.c_str());
}

}  // namespace mlf
