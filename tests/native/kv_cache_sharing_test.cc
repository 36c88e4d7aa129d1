// Tests of src/runtime/kv_cache: pages with owners beside their sequences, and what may be shared.
#include <algorithm>
#include <vector>

#include "check.h"
#include "kernels/attention.h"
#include "owned_array.h"
#include "runtime/kv_cache.h"
#include "tiny_cache.h"

namespace mlf {
namespace {

constexpr int64_t kSequences = 4, kContext = 128;
constexpr int32_t kEnd = INT32_MAX;

/// Pages of two sequences, one of them only held, at the end of a third.
void TestAppendShared() {
  KvCache cache(TinyCacheConfig(), kContext, kSequences, kF32);
  const int64_t all = cache.free_pages();
  for (int32_t i = 0; i < 70; ++i) cache.Append(0, i);
  const std::vector<int32_t> pages = cache.pages(0);
  for (const int32_t page : {pages[0], pages[1]}) cache.Hold(page);
  cache.Clear(0);
  MLF_EXPECT(cache.free_pages() == all - 2);
  cache.AppendShared(1, pages[0]);
  cache.AppendShared(2, pages[1]);  // not where it belongs
  cache.AppendShared(2, pages[0]);
  MLF_EXPECT(cache.unaltered(1) && !cache.unaltered(2));
  MLF_EXPECT(cache.count(2) == 64 && cache.last_position(2) == 63 && cache.owners(pages[0]) == 3);
  cache.Copy(2, 3, 0, kEnd);
  for (const int64_t seq : {2, 3}) {
    cache.Truncate(seq, 1);  // 31 is at the end, 63 the largest
    MLF_EXPECT(cache.count(seq) == 63 && cache.last_position(seq) == 63);
  }
  cache.Clear(3);
  MLF_EXPECT(cache.owners(pages[0]) == 2);
  cache.Truncate(2, 32);
  MLF_EXPECT(cache.count(2) == 31 && cache.last_position(2) == 62);
  MLF_EXPECT(cache.Append(1, 32) % kPageSize == 0 && cache.pages(1).size() == 2);
  MLF_EXPECT_THROWS(cache.AppendShared(1, pages[1]), "InternalError", "is not full");
  MLF_EXPECT_THROWS(cache.AppendShared(3, cache.pages(1)[1]), "InternalError", "is not full");
  cache.Truncate(1, 1);
  cache.AppendShared(1, pages[1]);
  MLF_EXPECT(cache.unaltered(1) && cache.last_position(1) == 63);
  for (const int64_t seq : {1, 2}) cache.Clear(seq);
  MLF_EXPECT(cache.free_pages() == all - 2 && cache.owners(pages[0]) == 1);
  for (const int32_t page : {pages[0], pages[1]}) cache.Release(page);
  for (const int32_t page : {-1, pages[0], 1000}) {
    MLF_EXPECT_THROWS(cache.AppendShared(1, page), "InternalError", "has no owner");
    MLF_EXPECT_THROWS(cache.Hold(page), "InternalError", "has no owner");
  }
  MLF_EXPECT(cache.free_pages() == all && cache.pages(1).empty());
}

/// Two that computed the same keep one page of it.
void TestExchange() {
  KvCache cache(TinyCacheConfig(), kContext, kSequences, kF32);
  const int64_t all = cache.free_pages();
  for (const int64_t seq : {0, 1}) {
    for (int32_t i = 0; i < 40; ++i) cache.Append(seq, i);
  }
  const int32_t page = cache.pages(0)[0];
  for (int times = 0; times < 2; ++times) {  // the second changes nothing
    cache.Exchange(1, 0, page);
    MLF_EXPECT(cache.pages(1)[0] == page && cache.owners(page) == 2);
    MLF_EXPECT(cache.free_pages() == all - 3 && cache.count(1) == 40 && cache.unaltered(1));
  }
  MLF_EXPECT_THROWS(cache.Exchange(1, 0, cache.pages(0)[1]), "InternalError", "other positions");
  MLF_EXPECT_THROWS(cache.Exchange(1, 0, 100), "InternalError", "has no owner");
  for (const int64_t seq : {0, 1}) cache.Clear(seq);
  MLF_EXPECT(cache.free_pages() == all);
}

void TestUnaltered() {
  KvCache cache(TinyCacheConfig(), kContext, kSequences, kF32);
  const auto fill = [&](int64_t seq, int32_t p0, int32_t p1) {
    cache.Clear(seq);
    for (int32_t p = p0; p < p1; ++p) cache.Append(seq, p);
    return cache.unaltered(seq);
  };
  MLF_EXPECT(cache.unaltered(0) && fill(0, 0, 70) && !fill(1, 1, 3));
  cache.Truncate(0, 20);
  cache.Remove(0, 48, kEnd);
  cache.Remove(0, 48, 50);
  cache.Remove(0, 9, 9);
  MLF_EXPECT(cache.count(0) == 48 && cache.unaltered(0) && cache.Append(0, 48) >= 0);
  cache.Clear(1);
  cache.Copy(0, 1, 0, 40);
  cache.Copy(0, 2, 32, kEnd);
  cache.Copy(0, 1, 45, 45);
  MLF_EXPECT(cache.unaltered(1) && !cache.unaltered(2));
  cache.Copy(0, 1, 40, kEnd);  // computed over others than those that are before it now
  MLF_EXPECT(cache.count(1) == 49 && !cache.unaltered(1));
  cache.Remove(1, 0, kEnd);
  MLF_EXPECT(cache.unaltered(1));
  cache.Copy(0, 1, 0, kEnd);
  cache.Append(1, 50);  // one position left out
  MLF_EXPECT(cache.unaltered(0) && !cache.unaltered(1));
  cache.Remove(0, 3, 4);
  MLF_EXPECT(!cache.unaltered(0) && fill(0, 0, 64));
  const OwnedArray<float> cos_sin({1, 2, 1});
  cache.Remove(0, 0, 32);
  cache.Shift(0, 0, kEnd, -32, cos_sin.view, true);  // looks like a page 0, and is none
  MLF_EXPECT(!cache.unaltered(0) && cache.Entries(0)[0].index == cache.Entries(0)[0].position);
}

/// A page that is held is copied before its sequence takes entries back; without room, not at all.
void TestTruncateShared() {
  KvCache cache(TinyCacheConfig(), CacheShape{64, 2, 2}, kF32);
  MLF_EXPECT(cache.n_pages() == 2 && cache.n_ctx() == 64 && cache.n_seq_max() == 2);
  for (int32_t i = 0; i < 64; ++i) cache.Append(0, i);
  const int32_t first = cache.pages(0)[0];
  cache.Hold(first);
  cache.Truncate(0, 40);  // the other page makes the room
  MLF_EXPECT(cache.pages(0)[0] != first && cache.count(0) == 24 && cache.free_pages() == 0);
  MLF_EXPECT(cache.page_positions().data<int32_t>()[first * kPageSize + 31] == 31);
  cache.Clear(0);
  cache.AppendShared(0, first);
  for (int32_t i = 32; i < 64; ++i) cache.Append(0, i);
  cache.Hold(cache.pages(0)[1]);
  MLF_EXPECT_THROWS(cache.Truncate(0, 1), "RuntimeError", "is full");
  MLF_EXPECT(cache.count(0) == 64 && cache.last_position(0) == 63);
  cache.Truncate(0, 32);
  MLF_EXPECT(cache.count(0) == 32 && cache.last_position(0) == 31 && cache.free_pages() == 0);
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestAppendShared();
  mlf::TestExchange();
  mlf::TestUnaltered();
  mlf::TestTruncateShared();
  return 0;
}
