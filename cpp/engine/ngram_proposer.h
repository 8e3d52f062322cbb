#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mlc_server {

// Guesses how one growing sequence of tokens goes on: as it did after the latest earlier occurrence
// of its last few tokens ("prompt lookup decoding", https://arxiv.org/abs/2304.04487, section 3;
// copying and quoting is common in answers). Knows nothing of models; a guess may be wrong.
//
// Cost: a constant for each token and each n-gram size, amortised; memory: at most 16 bytes for
// each token and size. Nothing is looked at before the first Propose().
class NgramProposer {
 public:
  static constexpr int32_t kMostCompared = 16;

  // 1 <= ngram_min <= ngram_max: numbers of last tokens that are looked up, the largest first.
  NgramProposer(int32_t ngram_min, int32_t ngram_max);

  // Replaces `drafts` by a guess of the `count` tokens after `tokens`: that many, or none. `tokens`
  // begins with those of the call before. Returns how many tokens before the guessed ones are the
  // same as the last of `tokens`, at most kMostCompared; 0 without a guess.
  int32_t Propose(const std::vector<int32_t>& tokens, int32_t count, std::vector<int32_t>* drafts);

 private:
  // For one n-gram size, where n-grams last ended, by their hash. One entry may displace another:
  // what is found is compared with the tokens.
  struct Index {
    size_t ngram;
    std::vector<uint32_t> ends;  // 0 is none; its size is a power of two
    size_t num_indexed = 0;      // n-grams that end at or before this many tokens are in
  };

  static void Extend(const std::vector<int32_t>& tokens, Index* index);
  static int32_t CountMatching(const std::vector<int32_t>& tokens, size_t end);
  // Where the last index.ngram tokens ended before; 0 is nowhere.
  static size_t Find(const std::vector<int32_t>& tokens, const Index& index);

  std::vector<Index> indices_;  // largest n-gram first
};

}  // namespace mlc_server
