// Tests of src/io/mmap.cc.
#include "io/mmap.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "check.h"
#include "temp_dir.h"

namespace mlf {
namespace {

using test::TempDir;

std::string Pattern(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 2654435761u >> 13);
  return bytes;
}

bool Holds(const MappedFile& file, const std::string& bytes) {
  return file.size() == static_cast<int64_t>(bytes.size()) &&
         (bytes.empty() || std::memcmp(file.data(), bytes.data(), bytes.size()) == 0);
}

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

void TestSizes(const TempDir& dir) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (size_t size : {size_t{0}, size_t{1}, page - 1, page, page + 1, 5 * page + 7}) {
    const std::string bytes = Pattern(size);
    const std::string path = dir.Write("sized", bytes);
    MappedFile file(path);
    MLF_EXPECT(file.path() == path);
    MLF_EXPECT(Holds(file, bytes));
    const uint8_t* before = file.data();
    file.ReadIntoMemory();
    file.ReadIntoMemory();
    MLF_EXPECT(file.data() == before && Holds(file, bytes));
    MappedFile moved(std::move(file));
    MLF_EXPECT(moved.data() == before && Holds(moved, bytes));
  }
}

void TestErrors(const TempDir& dir) {
  MLF_EXPECT_THROWS(MappedFile(dir.Path("absent")), "FileNotFoundError", dir.Path("absent"));
  MLF_EXPECT_THROWS(MappedFile(""), "FileNotFoundError", "No such file");
  MLF_EXPECT_THROWS(MappedFile(dir.Path("")), "IsADirectoryError", "Is a directory");
  const std::string file = dir.Write("file", "x");
  MLF_EXPECT_THROWS(MappedFile(file + "/below"), "OSError", "Not a directory");
  MLF_EXPECT_THROWS(MappedFile(file + std::string("\0more", 5)), "ValueError", "null byte");
  MLF_EXPECT_THROWS(MappedFile("/dev/null"), "OSError", "regular file");
  MLF_EXPECT(mkfifo(dir.Path("pipe").c_str(), 0600) == 0);
  MLF_EXPECT_THROWS(MappedFile(dir.Path("pipe")), "OSError", "regular file");
  MLF_EXPECT_THROWS(MappedFile(dir.Path("\xFF")), "FileNotFoundError", "\\xff");
}

/// Runs a check in a process of its own, without the rights of root.
template <typename Check>
void InChildWithoutRights(const Check& check) {
  const pid_t child = fork();
  MLF_EXPECT(child >= 0);
  if (child == 0) {
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(2);
    check();
    _exit(0);
  }
  int status = 0;
  MLF_EXPECT(waitpid(child, &status, 0) == child);
  MLF_EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void TestPermission(const TempDir& dir) {
  const std::string path = dir.Write("secret", "x");
  MLF_EXPECT(chmod(dir.Path("").c_str(), 0755) == 0 && chmod(path.c_str(), 0) == 0);
  InChildWithoutRights(
      [&] { MLF_EXPECT_THROWS(MappedFile(path), "PermissionError", "Permission denied"); });
}

void TestShrunk(const TempDir& dir) {
  const std::string path = dir.Write("shrinking", Pattern(10000));
  MappedFile file(path);
  MLF_EXPECT(truncate(path.c_str(), 4000) == 0);
  MLF_EXPECT_THROWS(file.ReadIntoMemory(), "OSError", "ends at byte 4000, expected 10000");
}

void TestReadSurvivesTruncation(const TempDir& dir) {
  const std::string bytes = Pattern(10000);
  const std::string path = dir.Write("truncated later", bytes);
  MappedFile file(path);
  file.ReadIntoMemory();
  MLF_EXPECT(truncate(path.c_str(), 0) == 0);
  MLF_EXPECT(Holds(file, bytes));
}

bool MayLock(int64_t bytes) {
  rlimit limit;
  return geteuid() == 0 ||
         (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur > static_cast<rlim_t>(bytes));
}

void TestRelease(const TempDir& dir, bool in_memory, bool locked) {
  constexpr int64_t kBytes = int64_t{32} << 20;
  if (locked && !MayLock(kBytes)) return;
  const std::string bytes = Pattern(kBytes);
  MappedFile file(dir.Write("large", bytes));
  if (in_memory) file.ReadIntoMemory();
  if (locked) file.Lock();
  MLF_EXPECT(Holds(file, bytes));
  const int64_t before = ResidentBytes();
  file.Release(file.data() + 1, kBytes - 2);
  MLF_EXPECT(before - ResidentBytes() > kBytes * 3 / 4);
  MLF_EXPECT(Holds(file, bytes));

  const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t begins[] = {0, 1, page - 1, page, page + 1, kBytes - 1};
  const int64_t sizes[] = {-1, 0, 1, page - 1, page, page + 1, 2 * page, kBytes, INT64_MAX};
  for (int64_t begin : begins) {
    for (int64_t size : sizes) {
      file.Release(file.data() + begin, size);
      MLF_EXPECT(Holds(file, bytes));
    }
  }
  file.Release(nullptr, page);
  file.Release(file.data() + kBytes, page);
}

// A page that reaches out of the range belongs to a neighbour too and must stay.
void TestReleaseKeepsNeighbours(const TempDir& dir) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  const std::string old_bytes = Pattern(static_cast<size_t>(4 * page));
  const std::string path = dir.Write("neighbours", old_bytes);
  MappedFile file(path);
  file.ReadIntoMemory();
  std::fstream(path, std::ios::in | std::ios::out | std::ios::binary)  // tells what was released
      << std::string(old_bytes.size(), 'n');
  file.Release(file.data() + 1, 3 * page);
  for (int64_t i = 0; i < 4 * page; ++i) {
    const bool released = i >= page && i < 3 * page;
    MLF_EXPECT(static_cast<char>(file.data()[i]) ==
               (released ? 'n' : old_bytes[static_cast<size_t>(i)]));
  }
}

void TestLock(const TempDir& dir) {
  const std::string bytes = Pattern(40000);
  const std::string path = dir.Write("locked", bytes);
  MLF_EXPECT(chmod(path.c_str(), 0644) == 0);
  for (bool in_memory : {false, true}) {
    MappedFile file(path);
    if (in_memory) file.ReadIntoMemory();
    file.Lock();
    MLF_EXPECT(Holds(file, bytes));
    file.Release(file.data(), file.size());
    MLF_EXPECT(Holds(file, bytes));
  }
  MappedFile empty(dir.Write("empty", ""));
  empty.Lock();
// Sanitizers answer mlock without asking the system.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  InChildWithoutRights([&] {
    const rlimit none{0, 0};
    MLF_EXPECT(setrlimit(RLIMIT_MEMLOCK, &none) == 0);
    MappedFile file(path);
    MLF_EXPECT_THROWS(file.Lock(), "RuntimeError", "the limit (ulimit -l) is 0 bytes");
    MLF_EXPECT(Holds(file, bytes));
  });
#endif
}

}  // namespace
}  // namespace mlf

int main() {
  const mlf::test::TempDir dir;
  mlf::TestSizes(dir);
  mlf::TestErrors(dir);
  mlf::TestPermission(dir);
  mlf::TestShrunk(dir);
  mlf::TestReadSurvivesTruncation(dir);
  for (bool in_memory : {false, true}) {
    for (bool locked : {false, true}) mlf::TestRelease(dir, in_memory, locked);
  }
  mlf::TestReleaseKeepsNeighbours(dir);
  mlf::TestLock(dir);
  return 0;
}
