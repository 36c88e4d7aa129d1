// The system's refusals as typed errors. Counterpart: os_error.cc.
#pragma once
#include <string>

namespace mlf {

/// What an errno means, in words; safe between threads, unlike strerror.
std::string ErrnoText(int error);

std::string QuotedPath(const std::string& path);

/// Throws FileNotFoundError, PermissionError, IsADirectoryError, MemoryError or OSError for an
/// errno: "cannot <doing> <path>: <reason>".
[[noreturn]] void ThrowErrno(int error, const std::string& path, const char* doing);

}  // namespace mlf
