// A file's bytes, mapped or read into memory. Counterpart: mmap.h.
#include "io/mmap.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <tvm/ffi/tvm_ffi.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <utility>

#include "base/interrupt.h"
#include "base/os_error.h"
#include "base/quote.h"

namespace mlf {
namespace {

// One system call's share of long work, so that Ctrl-C is seen in time even from a slow disk.
constexpr int64_t kChunkBytes = int64_t{4} << 20;

// Non-blocking, so that a named pipe is refused below instead of waited for.
int OpenReadOnly(const std::string& path) {
  if (path.find('\0') != std::string::npos)
    TVM_FFI_THROW(ValueError) << "path " << QuotedPath(path)
                              << " contains a null byte, expected the name of a file";
  for (;;) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0) return fd;
    if (errno != EINTR) ThrowErrno(errno, path, "open");
    PollInterrupt();
  }
}

int64_t RegularFileBytes(int fd, const std::string& path) {
  struct stat info;
  if (fstat(fd, &info) != 0) ThrowErrno(errno, path, "read the size of");
  if (S_ISDIR(info.st_mode)) ThrowErrno(EISDIR, path, "open");
  if (!S_ISREG(info.st_mode))
    TVM_FFI_THROW(OSError) << "cannot map " << QuotedPath(path)
                           << ": expected a regular file, got a device, pipe or socket";
  return info.st_size;
}

void ReadAll(int fd, const std::string& path, uint8_t* out, int64_t size) {
  InterruptPoller poller;
  for (int64_t done = 0; done < size;) {
    const ssize_t n = pread(fd, out + done, std::min(kChunkBytes, size - done), done);
    if (n < 0 && errno != EINTR) ThrowErrno(errno, path, "read");
    if (n == 0)
      TVM_FFI_THROW(OSError) << "cannot read " << QuotedPath(path) << ": it ends at byte " << done
                             << ", expected " << size << " bytes as when it was opened";
    done += std::max<ssize_t>(n, 0);
    poller.Poll();
  }
}

std::string LockLimit() {
  struct rlimit limit;
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return "unknown";
  return limit.rlim_cur == RLIM_INFINITY ? "none" : std::to_string(limit.rlim_cur) + " bytes";
}

}  // namespace

// Delegates, so that the destructor runs when something here throws.
MappedFile::MappedFile(const std::string& path) : MappedFile() {
  path_ = path;
  fd_ = OpenReadOnly(path);
  size_ = RegularFileBytes(fd_, path);
  if (size_ == 0) return;
  // Private, because some network and user-space file systems refuse a shared mapping.
  void* map = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd_, 0);
  if (map == MAP_FAILED) ThrowErrno(errno, path, "map");
  data_ = static_cast<uint8_t*>(map);
}

MappedFile::MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(in_memory_, other.in_memory_);
  std::swap(locked_, other.locked_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
  if (fd_ >= 0) close(fd_);
}

void MappedFile::ReadIntoMemory() {
  if (in_memory_ || size_ == 0) return;
  void* map = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) ThrowErrno(ENOMEM, path_, "allocate memory for");
  try {
    ReadAll(fd_, path_, static_cast<uint8_t*>(map), size_);
  } catch (...) {
    munmap(map, size_);
    throw;
  }
  mprotect(map, size_, PROT_READ);
  if (mremap(map, size_, size_, MREMAP_MAYMOVE | MREMAP_FIXED, data_) == MAP_FAILED) {
    const int error = errno;
    munmap(map, size_);
    ThrowErrno(error, path_, "move the memory of");
  }
  in_memory_ = true;
}

void MappedFile::Lock() {
  InterruptPoller poller;
  for (int64_t done = 0; done < size_; done += kChunkBytes) {
    if (mlock(data_ + done, std::min(kChunkBytes, size_ - done)) != 0) {
      const int error = errno;
      munlock(data_, size_);
      TVM_FFI_THROW(RuntimeError) << "cannot lock " << size_ << " bytes of " << QuotedPath(path_)
                                  << " in memory: " << ErrnoText(error)
                                  << "; the limit (ulimit -l) is " << LockLimit()
                                  << ", raise it or open the file without mlock";
    }
    locked_ = true;
    poller.Poll();
  }
}

void MappedFile::Release(const uint8_t* begin, int64_t bytes) const noexcept {
  if (bytes <= 0 || !Contains(begin)) return;
  static const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t first = (begin - data_ + page - 1) / page * page;
  const int64_t last = (begin - data_ + std::min(bytes, data_ + size_ - begin)) / page * page;
  if (first >= last) return;
  if (locked_) munlock(data_ + first, last - first);
  if (in_memory_) {
    // Anonymous pages would come back as zeros: the file takes their place.
    mmap(data_ + first, last - first, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd_, first);
  } else {
    madvise(data_ + first, last - first, MADV_DONTNEED);
  }
}

}  // namespace mlf
