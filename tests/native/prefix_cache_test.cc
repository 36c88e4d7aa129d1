// Tests of src/runtime/prefix_cache: single cases, and memory that runs out.
#include "runtime/prefix_cache.h"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "check.h"
#include "tiny_cache.h"

namespace {
int64_t allocations_left = -1;  // −1: as many as there are
}

void* operator new(size_t bytes) {
  if (allocations_left == 0) throw std::bad_alloc();
  if (allocations_left > 0) --allocations_left;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace mlf {
namespace {

using Tokens = std::vector<int32_t>;

constexpr int64_t kSequences = 6, kContext = 8 * kPageSize, kPages = 40;

/// Pages for tests of single cases.
struct Single {
  KvCache pages{TinyCacheConfig(), CacheShape{kContext, kSequences, kPages}, kF32};
  PrefixCache prefixes{pages, 5};

  void Fill(int64_t seq, int64_t n) {
    while (pages.count(seq) < n) pages.Append(seq, pages.last_position(seq) + 1);
  }
  /// A sequence that has computed all tokens, and let go of them.
  void Learn(const std::string& root, const Tokens& tokens) {
    PrefixCache::Cursor cursor = prefixes.Take(root, tokens, INT64_MAX, 5);
    Fill(5, static_cast<int64_t>(tokens.size()));
    prefixes.Put(root, cursor, tokens, 5);
    MLF_EXPECT(cursor.tokens == static_cast<int64_t>(tokens.size()) / kPageSize * kPageSize);
    pages.Clear(5);
  }
  int64_t Known(const std::string& root, const Tokens& tokens) const {
    return prefixes.Known(root, tokens, INT64_MAX).tokens;
  }
};

Tokens Counted(int32_t n, int32_t first = 0) {
  Tokens tokens(n);
  for (int32_t i = 0; i < n; ++i) tokens[i] = first + i;
  return tokens;
}

/// 0, 1, a page ± 1: whole pages only, and of them no more than asked for.
void TestLengths() {
  for (const int32_t n : {0, 1, 31, 32, 33, 63, 64, 65}) {
    Single s;
    s.Learn("", Counted(n));
    MLF_EXPECT(s.prefixes.pages() == n / 32 && s.prefixes.evictable() == n / 32);
    for (const int64_t max : {INT64_MIN, int64_t{-1}, int64_t{0}, int64_t{31}, int64_t{32},
                              int64_t{63}, int64_t{64}, INT64_MAX}) {
      const int64_t expected = max < 0 ? 0 : std::min<int64_t>(max, n) / 32 * 32;
      MLF_EXPECT(s.prefixes.Take("", Counted(n), max, 0).tokens == expected);
      MLF_EXPECT(s.pages.count(0) == expected);
      s.pages.Clear(0);
    }
  }
}

void TestTakeNeedsEmptySequence() {
  Single s;
  s.Fill(0, 1);
  MLF_EXPECT_THROWS(s.prefixes.Take("", Counted(40), 40, 0), "InternalError", "is not empty");
}

/// Two sequences compute the same: the second gives up its page, and both go on from one tree.
void TestTwins() {
  Single s;
  PrefixCache::Cursor first, second;
  for (const int64_t seq : {0, 1}) s.Fill(seq, 40);
  s.prefixes.Put("", first, Counted(40), 0);
  s.prefixes.Put("", second, Counted(40), 1);
  MLF_EXPECT(s.pages.pages(0)[0] == s.pages.pages(1)[0] && s.prefixes.pages() == 1);
  MLF_EXPECT(s.pages.free_pages() == kPages - 3);
  s.Fill(1, 64);
  s.prefixes.Put("", second, Counted(64), 1);
  s.pages.Clear(0);  // what the second's page follows stays for it
  MLF_EXPECT(s.prefixes.pages() == 2 && s.prefixes.evictable() == 0 && s.prefixes.Evict(9) == 0);
  s.pages.Clear(1);
  MLF_EXPECT(s.prefixes.evictable() == 2 && s.Known("", Counted(64)) == 64);
}

/// The least recently used goes first; of a chain its end.
void TestEvictionOrder() {
  Single s;
  s.Learn("", Counted(64));
  s.Learn("", Counted(64, 500));
  s.prefixes.Take("", Counted(40), INT64_MAX, 0);  // the first page of the first is used again
  s.pages.Clear(0);
  MLF_EXPECT(s.prefixes.Evict(1) == 1 && s.Known("", Counted(64)) == 32);
  MLF_EXPECT(s.prefixes.Evict(1) == 1 && s.Known("", Counted(64, 500)) == 32);
  MLF_EXPECT(s.prefixes.Evict(1) == 1 && s.Known("", Counted(64, 500)) == 0);
  MLF_EXPECT(s.Known("", Counted(64)) == 32 && s.prefixes.Evict(9) == 1);
  MLF_EXPECT(s.pages.free_pages() == kPages && s.prefixes.Evict(1) == 0);
}

/// A dropped root is unknown at once, even to cursors, while sequences keep its pages.
void TestDropRoots() {
  Single s;
  for (const auto* root : {"x", "xy", "y"}) s.Learn(root, Counted(32));
  PrefixCache::Cursor cursor = s.prefixes.Take("x", Counted(32), 32, 0);
  s.prefixes.DropRoots("x");
  MLF_EXPECT(s.Known("x", Counted(32)) == 0 && s.Known("xy", Counted(32)) == 0);
  MLF_EXPECT(s.Known("y", Counted(32)) == 32 && s.prefixes.pages() == 1);
  MLF_EXPECT(s.pages.free_pages() == kPages - 2 && s.pages.count(0) == 32);
  s.Fill(0, 64);
  s.prefixes.Put("x", cursor, Counted(64), 0);  // from the beginning again
  MLF_EXPECT(cursor.tokens == 64 && s.Known("x", Counted(64)) == 64);
  s.prefixes.Clear();
  s.pages.Clear(0);
  MLF_EXPECT(s.pages.free_pages() == kPages && s.prefixes.pages() == 0);
}

/// A page has one text: it cannot be put as another's, nor under another root.
void TestOneTextPerPage() {
  Single s;
  s.Fill(0, 32);
  PrefixCache::Cursor cursor, other;
  s.prefixes.Put("x", cursor, Counted(32), 0);
  s.prefixes.Put("y", other, Counted(32), 0);
  s.prefixes.Put("x", other, Counted(32, 7), 0);
  MLF_EXPECT(s.prefixes.pages() == 1 && other.tokens == 0 && s.Known("y", Counted(32)) == 0);
}

/// A cursor of tokens that were taken back leads nowhere.
void TestStaleCursor() {
  Single s;
  PrefixCache::Cursor cursor;
  s.Fill(0, 64);
  s.prefixes.Put("", cursor, Counted(64), 0);
  s.pages.Truncate(0, 34);  // the first page is cut: the tree keeps the whole one
  Tokens tokens = Counted(96);
  for (size_t i = 30; i < 96; ++i) tokens[i] += 1000;
  s.Fill(0, 96);
  s.prefixes.Put("", cursor, tokens, 0);
  MLF_EXPECT(s.Known("", tokens) == 96 && s.Known("", Counted(96)) == 64);
  MLF_EXPECT(s.prefixes.pages() == 5);
}

void TestShiftedStaysOut() {
  Single s;
  PrefixCache::Cursor cursor;
  s.Fill(0, 64);
  s.pages.Remove(0, 0, 32);
  float turn[2] = {1, 0};
  s.pages.Shift(0, 0, INT32_MAX, -32, ArrayView(turn, kF32, {1, 2, 1}), true);
  s.prefixes.Put("", cursor, Counted(32), 0);
  MLF_EXPECT(s.pages.Entries(0)[0].position == 0 && s.prefixes.pages() == 0);
}

void TestDestructorReleases() {
  KvCache pages(TinyCacheConfig(), CacheShape{kContext, 1, 4}, kF32);
  {
    PrefixCache prefixes(pages, 1);
    for (int32_t i = 0; i < 64; ++i) pages.Append(0, i);
    PrefixCache::Cursor cursor;
    prefixes.Put("", cursor, Counted(64), 0);
  }
  pages.Clear(0);
  MLF_EXPECT(pages.free_pages() == 4);
}

/// Memory that runs out at any allocation leaves all pages accounted for.
void TestOutOfMemory() {
  const Tokens tokens = Counted(12 * 32);
  const std::string root(100, 'r');
  for (int64_t allocations = 0, failures = 1; failures > 0; ++allocations) {
    Single s;
    s.Fill(0, 12 * 32);
    PrefixCache::Cursor cursor;
    failures = 0;
    const auto attempt = [&](auto call) {
      allocations_left = allocations;
      try {
        call();
      } catch (const std::bad_alloc&) {
        ++failures;
      }
      allocations_left = -1;
    };
    attempt([&] { s.prefixes.Put(root, cursor, tokens, 0); });
    MLF_EXPECT(s.Known(root, tokens) == cursor.tokens);
    s.prefixes.Put(root, cursor, tokens, 0);  // what is missing
    MLF_EXPECT(s.Known(root, tokens) == 12 * 32);
    attempt([&] { s.prefixes.Take(root, tokens, INT64_MAX, 1); });
    MLF_EXPECT(s.pages.count(1) == 0 || s.pages.count(1) == cursor.tokens);
    attempt([&] { s.pages.Append(1, 300); });
    attempt([&] { s.pages.Copy(0, 2, 0, INT32_MAX); });
    attempt([&] { s.pages.Copy(0, 3, 0, 40); });
    attempt([&] { s.pages.Truncate(0, 20); });
    for (const int64_t seq : {0, 1, 2, 3}) s.pages.Clear(seq);
    MLF_EXPECT(s.prefixes.Evict(kPages) == cursor.tokens / kPageSize);
    MLF_EXPECT(s.pages.free_pages() == kPages);
  }
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestLengths();
  mlf::TestTakeNeedsEmptySequence();
  mlf::TestTwins();
  mlf::TestEvictionOrder();
  mlf::TestDropRoots();
  mlf::TestOneTextPerPage();
  mlf::TestStaleCursor();
  mlf::TestShiftedStaysOut();
  mlf::TestDestructorReleases();
  mlf::TestOutOfMemory();
  return 0;
}
