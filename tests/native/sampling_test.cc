// Argmax: ties, NaN, infinities.
#include "kernels/sampling.h"

#include <limits>

#include "check.h"
#include "owned_array.h"

namespace mlf {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity(),
                kNan = std::numeric_limits<float>::quiet_NaN();

int32_t Argmax(const std::vector<float>& row) {
  OwnedArray<float> x({1, static_cast<int64_t>(row.size())});
  x.data.assign(row.begin(), row.end());
  x.view = ArrayView(x.data.data(), kF32, {1, x.size()});
  OwnedArray<int32_t> id({1});
  id[0] = -1;
  argmax_kernel({kDLCPU, 0}, id, x);
  return id[0];
}

void TestRows(int64_t rows, int64_t n) {
  auto x = RandomArray<float>({rows, n}, n);
  for (int64_t i = 0; i < x.size(); i += 3) x[i] = std::round(x[i] * 4);  // ties
  for (int64_t i = 0; i < x.size(); i += 5) x[i] = kNan;
  OwnedArray<int32_t> ids({rows});
  argmax_kernel({kDLCPU, 0}, ids, x);
  for (int64_t r = 0; r < rows; ++r) {
    int64_t want = -1;
    for (int64_t i = 0; i < n; ++i) {
      if (!std::isnan(x[r * n + i]) && (want < 0 || x[r * n + i] > x[r * n + want])) want = i;
    }
    MLF_EXPECT(ids[r] == std::max<int64_t>(0, want));
  }
}

void TestEveryPlace(int64_t n) {
  for (int64_t at = 0; at < n; ++at) {
    std::vector<float> row(n, -1.f);
    row[at] = 2.f;
    MLF_EXPECT(Argmax(row) == at);
    row.assign(n, kNan);
    row[at] = -kInf;  // worse than anything, but a number
    MLF_EXPECT(Argmax(row) == at);
    row.assign(n, 3.f);
    row[at] = kNan;
    MLF_EXPECT(Argmax(row) == (at == 0 && n > 1 ? 1 : 0));
  }
}

}  // namespace
}  // namespace mlf

int main() {
  for (int64_t n : {1, 2, 15, 16, 17, 63, 64, 65, 255, 256, 257, 600}) mlf::TestEveryPlace(n);
  for (int64_t n : {1, 100, 4097, 49152}) {
    for (int64_t rows : {0, 1, 3, 20}) mlf::TestRows(rows, n);
  }
  MLF_EXPECT(mlf::Argmax(std::vector<float>(100, -mlf::kInf)) == 0);
  MLF_EXPECT(mlf::Argmax({-0.f, 0.f, -0.f}) == 0);
  MLF_EXPECT(mlf::Argmax({1.f, mlf::kInf, mlf::kInf}) == 1);
  return 0;
}
