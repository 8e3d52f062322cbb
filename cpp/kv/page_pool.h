#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "core/sequence.h"

namespace mlc_server {

// Hands out KV pages and counts their references. Knows nothing of what is in a page.
// Not thread-safe: the engine thread owns it.
class PagePool {
 public:
  // `num_pages` >= 1.
  explicit PagePool(int32_t num_pages);

  // `count` >= 0 pages with one reference each, or nullopt and no change when fewer are free.
  std::optional<std::vector<PageId>> Allocate(int32_t count);
  // The same, appended to `pages`; false and no change when fewer are free.
  bool AllocateOnto(std::vector<PageId>* pages, int32_t count);
  // One more owner of an allocated page.
  void AddReference(PageId page);
  // One owner less; the page is free when none is left.
  void Release(PageId page);

  int32_t num_pages() const { return static_cast<int32_t>(references_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  // 0 for a free page.
  int32_t reference_count(PageId page) const;

  // Tests make allocations fail at will: called with the count, when it is at least 1 and that many
  // are free; true means "pretend none are free".
  void SetAllocationFault(std::function<bool(int32_t)> fault);

  // Free list and reference counts agree: every page is free or referenced, never both or neither.
  void CheckIntegrity() const;

 private:
  // Trips unless `page` is one of the pool's and has an owner.
  void CheckAllocated(PageId page) const;

  std::vector<int32_t> references_;
  std::vector<PageId> free_;  // a stack; order is deterministic
  std::function<bool(int32_t)> fault_;
};

}  // namespace mlc_server
