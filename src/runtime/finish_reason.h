// Why a sequence ended.
#pragma once

namespace mlf {

/// Numbers are part of the ABI.
enum class FinishReason : int {
  kNotFinished = 0,
  kEndId = 1,
  kStopWords = 2,
  kLength = 3,
  kCancelled = 4,
  kTimedOut = 5,
  kError = 6,
};

}  // namespace mlf
