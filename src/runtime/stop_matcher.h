// Stop strings over streamed text. Counterpart: stop_matcher.cc.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace mlf {

/// Text goes in as it is generated and comes out as soon as it cannot be the beginning of a stop
/// string any more.
class StopMatcher {
 public:
  /// ValueError for an empty stop string.
  explicit StopMatcher(std::vector<std::string> stops);

  /// Text that is safe to show. Once a stop string is complete: what stood before it, and stopped()
  /// is true.
  std::string Push(std::string_view text);
  /// What was held back, at the end of generation.
  std::string Finish();
  bool stopped() const { return stopped_; }

 private:
  size_t HeldBack() const;

  std::vector<std::string> stops_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace mlf
