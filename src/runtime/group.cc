// A request in the engine. Counterpart: group.h.
#include "runtime/group.h"

#include <random>

#include "base/rng.h"

namespace mlf {
namespace {

uint64_t FreshSeed() {
  std::random_device device;
  return static_cast<uint64_t>(device()) << 32 | device();
}

/// The first sequence draws as a Sampler with the request's seed does.
uint64_t SeedOf(uint64_t seed, int64_t index) {
  return index == 0 ? seed : RandomBits(seed, ~static_cast<uint64_t>(index));
}

ResponseNode EmptyResponse(int64_t id, const Request& request, int64_t index) {
  ResponseNode node(1);
  node.front().request_id = id;
  node.front().client_id = request.client_id;
  node.front().sequence_index = index;
  return node;
}

}  // namespace

Sequence::Sequence(int64_t request_id, const Request& request, int64_t index, uint64_t seed,
                   const std::shared_ptr<const Vocab>& vocab)
    : index(index),
      tokens(request.tokens),
      seed(SeedOf(seed, index)),
      active(index == 0),
      decoder(vocab, /*skip_special=*/true, /*at_start=*/false),
      stops(request.stop_words),
      response(EmptyResponse(request_id, request, index)),
      last(EmptyResponse(request_id, request, index)) {}

Group::Group(int64_t id, Request asked, const std::shared_ptr<const Vocab>& vocab)
    : id(id),
      request(std::move(asked)),
      vocab(vocab),
      arrived(std::chrono::steady_clock::now()),
      rank(request.priority),
      order(id) {
  const uint64_t seed = request.sampling.seed ? *request.sampling.seed : FreshSeed();
  const int64_t n = request.n_sequences();
  sequences.reserve(n);
  for (int64_t i = 0; i < n; ++i) sequences.emplace_back(id, request, i, seed, vocab);
  n_unfinished = n;
  const auto soft = std::find_if(request.tokens.begin(), request.tokens.end(),
                                 [&](int32_t token) { return token >= vocab->size(); });
  first_soft_token = soft == request.tokens.end() ? INT64_MAX : soft - request.tokens.begin();
}

}  // namespace mlf
