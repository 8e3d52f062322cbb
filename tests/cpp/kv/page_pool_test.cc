#include "kv/page_pool.h"

#include <algorithm>
#include <random>

#include "support/cpp_test.h"

namespace mlc_server {
namespace {

TEST(PagePoolHandsOutEveryPageOnceThenNothing) {
  PagePool pool(5);
  std::vector<PageId> pages = *pool.Allocate(3);
  EXPECT_FALSE(pool.Allocate(3).has_value());
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_TRUE(pool.AllocateOnto(&pages, 2));
  EXPECT_EQ(pool.num_free(), 0);
  std::sort(pages.begin(), pages.end());
  EXPECT_EQ(pages, (std::vector<PageId>{0, 1, 2, 3, 4}));
  EXPECT_FALSE(pool.AllocateOnto(&pages, 1));
  EXPECT_EQ(pages.size(), size_t{5});
  pool.CheckIntegrity();
}

TEST(PagePoolAllocatesNothingWhenAskedForNothing) {
  PagePool pool(1);
  EXPECT_TRUE(pool.Allocate(0)->empty());
  EXPECT_EQ(pool.num_free(), 1);
}

TEST(PageIsFreeOnlyWhenItsLastOwnerLetsGo) {
  PagePool pool(2);
  const PageId page = pool.Allocate(1)->front();
  pool.AddReference(page);
  pool.AddReference(page);
  EXPECT_EQ(pool.reference_count(page), 3);
  pool.Release(page);
  pool.Release(page);
  EXPECT_EQ(pool.num_free(), 1);
  pool.Release(page);
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_EQ(pool.reference_count(page), 0);
}

TEST(MisuseOfAPageIsABrokenInvariant) {
  PagePool pool(2);
  EXPECT_THROW(pool.Release(0), InvariantError);
  EXPECT_THROW(pool.AddReference(0), InvariantError);
  EXPECT_THROW(pool.Release(-1), InvariantError);
  EXPECT_THROW(pool.Release(2), InvariantError);
  EXPECT_THROW(pool.reference_count(2), InvariantError);
  EXPECT_THROW(pool.Allocate(-1), InvariantError);
  EXPECT_THROW(PagePool(0), InvariantError);
  const PageId page = pool.Allocate(1)->front();
  pool.Release(page);
  EXPECT_THROW(pool.Release(page), InvariantError);
  pool.CheckIntegrity();
}

TEST(AllocationFaultLooksLikeAFullPool) {
  PagePool pool(4);
  std::vector<int32_t> asked;
  pool.SetAllocationFault([&](int32_t count) {
    asked.push_back(count);
    return count == 2;
  });
  EXPECT_FALSE(pool.Allocate(2).has_value());
  EXPECT_EQ(pool.num_free(), 4);
  EXPECT_TRUE(pool.Allocate(3).has_value());
  EXPECT_EQ(asked, (std::vector<int32_t>{2, 3}));
  pool.SetAllocationFault(nullptr);
  EXPECT_TRUE(pool.Allocate(1).has_value());
}

// The same calls give the same pages: the order in which pages are handed out is part of the
// scheduler's determinism.
TEST(PagePoolIsDeterministic) {
  PagePool first(64);
  PagePool second(64);
  std::mt19937 random(7);
  std::vector<PageId> held;
  for (int step = 0; step < 5000; ++step) {
    if (!held.empty() && random() % 2 == 0) {
      const size_t index = random() % held.size();
      first.Release(held[index]);
      second.Release(held[index]);
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(index));
    } else if (!held.empty() && random() % 3 == 0) {
      held.push_back(held[random() % held.size()]);
      first.AddReference(held.back());
      second.AddReference(held.back());
    } else {
      const auto count = static_cast<int32_t>(random() % 5);
      const auto pages = first.Allocate(count);
      EXPECT_TRUE(pages == second.Allocate(count));
      if (pages) {
        held.insert(held.end(), pages->begin(), pages->end());
      }
    }
    first.CheckIntegrity();
    for (PageId page = 0; page < first.num_pages(); ++page) {
      EXPECT_EQ(first.reference_count(page),
                static_cast<int32_t>(std::count(held.begin(), held.end(), page)));
    }
  }
}

}  // namespace
}  // namespace mlc_server
