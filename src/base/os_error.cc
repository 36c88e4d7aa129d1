// The system's refusals as typed errors. Counterpart: os_error.h.
#include "base/os_error.h"

#include <tvm/ffi/tvm_ffi.h>

#include <cerrno>
#include <system_error>

#include "base/quote.h"

namespace mlf {
namespace {

const char* KindOfErrno(int error) {
  switch (error) {
    case ENOENT:
      return "FileNotFoundError";
    case EACCES:
    case EPERM:
      return "PermissionError";
    case EISDIR:
      return "IsADirectoryError";
    case ENOMEM:
      return "MemoryError";
    default:
      return "OSError";
  }
}

}  // namespace

std::string ErrnoText(int error) { return std::generic_category().message(error); }

std::string QuotedPath(const std::string& path) { return Quoted(path, path.size()); }

void ThrowErrno(int error, const std::string& path, const char* doing) {
  std::string message = "cannot ";
  message.append(doing).append(" ").append(QuotedPath(path)).append(": ").append(ErrnoText(error));
  throw tvm::ffi::Error(KindOfErrno(error), message,
                        TVMFFIBacktrace(__FILE__, __LINE__, TVM_FFI_FUNC_SIG, 0));
}

}  // namespace mlf
