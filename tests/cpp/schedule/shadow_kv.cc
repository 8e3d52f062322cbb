#include "cpp/schedule/shadow_kv.h"

#include <algorithm>

#include "support/cpp_test.h"

namespace mlc_server::testing {

ShadowKv::ShadowKv(int32_t num_pages, int32_t page_size)
    : page_size_(page_size),
      hashes_(static_cast<size_t>(num_pages) * page_size, 0),
      written_step_(hashes_.size(), -1) {}

void ShadowKv::ExpectPrefix(const Sequence& sequence, const std::vector<uint64_t>& prefix_hashes,
                            int32_t num_tokens) const {
  for (int32_t position = 0; position < num_tokens; ++position) {
    if (hashes_[Slot(sequence, position)] != prefix_hashes[position]) {
      Fail(__FILE__, __LINE__,
           "KV of sequence " + std::to_string(sequence.id) + " is wrong at position " +
               std::to_string(position) + " of " + std::to_string(num_tokens));
    }
  }
}

void ShadowKv::Write(const Sequence& sequence, int32_t position, uint64_t prefix_hash,
                     const PagePool& pool, int64_t step) {
  EXPECT_EQ(pool.reference_count(sequence.pages[position / page_size_]), 1);
  const int32_t slot = Slot(sequence, position);
  EXPECT_NE(written_step_[slot], step);
  written_step_[slot] = step;
  hashes_[slot] = prefix_hash;
}

void ShadowKv::Copy(PageId from, PageId to, const PagePool& pool) {
  EXPECT_LE(pool.reference_count(to), 1);  // none once its owner was cancelled
  EXPECT_NE(from, to);
  std::copy_n(hashes_.begin() + from * page_size_, page_size_, hashes_.begin() + to * page_size_);
}

void ShadowKv::WipeFreePages(const PagePool& pool) {
  for (PageId page = 0; page < pool.num_pages(); ++page) {
    if (pool.reference_count(page) == 0) {
      std::fill_n(hashes_.begin() + page * page_size_, page_size_, 0);
    }
  }
}

int32_t ShadowKv::Slot(const Sequence& sequence, int32_t position) const {
  const size_t index = position / page_size_;
  EXPECT_LT(index, sequence.pages.size());
  const int32_t slot = sequence.pages[index] * page_size_ + position % page_size_;
  EXPECT_LT(static_cast<size_t>(slot), hashes_.size());
  return slot;
}

uint64_t ExtendPrefixHash(uint64_t prefix_hash, int32_t token) {
  uint64_t hash = (prefix_hash ^ static_cast<uint32_t>(token)) + 0x9E3779B97F4A7C15ULL;
  hash = (hash ^ (hash >> 30)) * 0xBF58476D1CE4E5B9ULL;
  hash = (hash ^ (hash >> 27)) * 0x94D049BB133111EBULL;
  return (hash ^ (hash >> 31)) | 1;
}

}  // namespace mlc_server::testing
