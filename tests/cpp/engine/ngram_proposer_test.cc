// What is proposed is what followed the latest earlier occurrence of the longest known tail.

#include "engine/ngram_proposer.h"

#include <algorithm>
#include <random>
#include <vector>

#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

using Tokens = std::vector<int32_t>;

Tokens Propose(const Tokens& tokens, int32_t count, int32_t ngram_min = 2, int32_t ngram_max = 4) {
  NgramProposer proposer(ngram_min, ngram_max);
  Tokens drafts = {99};
  proposer.Propose(tokens, count, &drafts);
  return drafts;
}

// The same by search through all tokens.
Tokens ProposeSlowly(const Tokens& tokens, int32_t count, int32_t ngram_min, int32_t ngram_max) {
  const auto length = static_cast<int32_t>(tokens.size());
  for (int32_t ngram = std::min(ngram_max, length - 1); ngram >= ngram_min; --ngram) {
    for (int32_t end = length - 1; end >= ngram; --end) {
      if (std::equal(tokens.end() - ngram, tokens.end(), tokens.begin() + end - ngram)) {
        Tokens continued = tokens;
        for (int32_t draft = 0; draft < count; ++draft) {
          continued.push_back(continued[end + draft]);
        }
        return Tokens(continued.end() - count, continued.end());
      }
    }
  }
  return {};
}

TEST(ProposesWhatFollowedBefore) {
  EXPECT_EQ(Propose({1, 2, 3, 4, 5, 6, 1, 2}, 3), (Tokens{3, 4, 5}));
  EXPECT_EQ(Propose({1, 2, 3, 4, 5, 6, 7, 2}, 3), Tokens{});
  EXPECT_EQ(Propose({1, 2, 3, 4, 5, 6, 7, 2}, 3, 1), (Tokens{3, 4, 5}));
}

TEST(LongestTailWinsThenTheLatest) {
  EXPECT_EQ(Propose({1, 2, 3, 7, 0, 2, 3, 8, 0, 2, 3, 9, 1, 2, 3}, 1), (Tokens{7}));
  EXPECT_EQ(Propose({1, 2, 3, 7, 0, 2, 3, 8, 0, 2, 3, 9, 5, 2, 3}, 1), (Tokens{9}));
}

TEST(ShortPeriodsGoOn) {
  EXPECT_EQ(Propose({7, 7, 7}, 4), (Tokens{7, 7, 7, 7}));
  EXPECT_EQ(Propose({1, 2, 3, 1, 2}, 5), (Tokens{3, 1, 2, 3, 1}));
}

TEST(TextTooShortToLookUpProposesNothing) {
  EXPECT_EQ(Propose({}, 4), Tokens{});
  EXPECT_EQ(Propose({1}, 4), Tokens{});
  EXPECT_EQ(Propose({1, 1}, 4), Tokens{});
  EXPECT_EQ(Propose({1, 1}, 2, 1), (Tokens{1, 1}));
}

// As the text grows by one to five tokens a time, over the sizes at which the tables are rebuilt.
// A displaced entry may cost a proposal or leave a shorter tail to go by, which is rare.
TEST(GrowingTextProposesAsASearchDoes) {
  std::mt19937 random(5);
  int32_t num_equal = 0;
  int32_t num_calls = 0;
  for (int32_t round = 0; round < 20; ++round) {
    NgramProposer proposer(2, 4);
    Tokens tokens;
    Tokens drafts;
    while (tokens.size() < 600) {
      for (uint32_t added = 1 + random() % 5; added > 0; --added) {
        tokens.push_back(static_cast<int32_t>(random() % (4 + round)) * 1000);
      }
      proposer.Propose(tokens, 4, &drafts);
      ++num_calls;
      num_equal += drafts == ProposeSlowly(tokens, 4, 2, 4) ? 1 : 0;
      EXPECT_TRUE(drafts.empty() || drafts.size() == 4);
    }
  }
  EXPECT_GT(num_equal, num_calls * 8 / 10);
}

}  // namespace
}  // namespace mlc_server::testing
