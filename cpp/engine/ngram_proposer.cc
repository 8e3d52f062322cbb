#include "engine/ngram_proposer.h"

#include <algorithm>

#include "base/check.h"

namespace mlc_server {
namespace {

constexpr size_t kMinTableSize = 64;

// Slot of the n-gram that ends before `end`, in a table of `size` slots: FNV-1a over whole tokens,
// finished by a multiplication whose upper bits depend on all of them.
size_t SlotOf(const std::vector<int32_t>& tokens, size_t end, size_t ngram, size_t size) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (size_t position = end - ngram; position < end; ++position) {
    hash = (hash ^ static_cast<uint32_t>(tokens[position])) * 0x100000001b3ULL;
  }
  return static_cast<size_t>((hash * 0x9e3779b97f4a7c15ULL) >> 32) & (size - 1);
}

}  // namespace

NgramProposer::NgramProposer(int32_t ngram_min, int32_t ngram_max) {
  MLC_CHECK(1 <= ngram_min && ngram_min <= ngram_max) << ngram_min << " to " << ngram_max;
  for (int32_t ngram = ngram_max; ngram >= ngram_min; --ngram) {
    indices_.push_back({static_cast<size_t>(ngram), {}});
  }
}

// How many tokens before `end` and before the end of `tokens` are the same, up to kMostCompared.
int32_t NgramProposer::CountMatching(const std::vector<int32_t>& tokens, size_t end) {
  size_t length = 0;
  while (length < std::min<size_t>(end, kMostCompared) &&
         tokens[end - length - 1] == tokens[tokens.size() - length - 1]) {
    ++length;
  }
  return static_cast<int32_t>(length);
}

int32_t NgramProposer::Propose(const std::vector<int32_t>& tokens, int32_t count,
                               std::vector<int32_t>* drafts) {
  drafts->clear();
  for (Index& index : indices_) {
    Extend(tokens, &index);
  }
  for (const Index& index : indices_) {
    const size_t begin = Find(tokens, index);
    if (begin == 0) {
      continue;
    }
    // Past the end the guess itself is copied: the text repeats with a short period.
    for (size_t position = begin; drafts->size() < static_cast<size_t>(count); ++position) {
      drafts->push_back(position < tokens.size() ? tokens[position]
                                                 : (*drafts)[position - tokens.size()]);
    }
    return CountMatching(tokens, begin);
  }
  return 0;
}

// The n-gram at the very end stays out: it is what will be looked up.
void NgramProposer::Extend(const std::vector<int32_t>& tokens, Index* index) {
  if (index->ends.size() < 2 * tokens.size()) {
    size_t size = kMinTableSize;
    while (size < 2 * tokens.size()) {
      size *= 2;
    }
    index->ends.assign(size, 0);
    index->num_indexed = 0;
  }
  for (size_t end = std::max(index->num_indexed + 1, index->ngram); end < tokens.size(); ++end) {
    index->ends[SlotOf(tokens, end, index->ngram, index->ends.size())] = static_cast<uint32_t>(end);
    index->num_indexed = end;
  }
}

size_t NgramProposer::Find(const std::vector<int32_t>& tokens, const Index& index) {
  if (tokens.size() <= index.ngram) {
    return 0;
  }
  const size_t end = index.ends[SlotOf(tokens, tokens.size(), index.ngram, index.ends.size())];
  const auto length = static_cast<std::ptrdiff_t>(index.ngram);
  const auto found = tokens.begin() + static_cast<std::ptrdiff_t>(end) - length;
  return end > 0 && std::equal(found, found + length, tokens.end() - length) ? end : 0;
}

}  // namespace mlc_server
