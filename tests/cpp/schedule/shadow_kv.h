#pragma once

#include <cstdint>
#include <vector>

#include "core/sequence.h"
#include "kv/page_pool.h"

namespace mlc_server::testing {

// Stands in for KV memory. Each slot holds a hash of the tokens up to and including the one whose
// KV was written there, which is all that KV depends on; 0 where nothing valid is.
class ShadowKv {
 public:
  ShadowKv(int32_t num_pages, int32_t page_size);

  // Trips unless `pages` hold exactly the prefixes [0, num_tokens) of `prefix_hashes`.
  void ExpectPrefix(const Sequence& sequence, const std::vector<uint64_t>& prefix_hashes,
                    int32_t num_tokens) const;
  // Writes token `position`. Trips when the page has another owner or the slot was already written
  // in step `step`: rows of a step are computed in no particular order.
  void Write(const Sequence& sequence, int32_t position, uint64_t prefix_hash, const PagePool& pool,
             int64_t step);
  // What page `from` holds is in page `to` as well, which nobody may share.
  void Copy(PageId from, PageId to, const PagePool& pool);
  // What is in a free page must never be read again.
  void WipeFreePages(const PagePool& pool);

 private:
  int32_t Slot(const Sequence& sequence, int32_t position) const;

  int32_t page_size_;
  std::vector<uint64_t> hashes_;       // [num_pages * page_size]
  std::vector<int64_t> written_step_;  // [num_pages * page_size]
};

// Hash of a prefix from the hash of the prefix before its last token (0 for none). Never 0.
uint64_t ExtendPrefixHash(uint64_t prefix_hash, int32_t token);

}  // namespace mlc_server::testing
