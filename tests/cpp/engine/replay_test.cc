// The engine's tokens are those of the plainest loop: run the model on the whole text so far, draw,
// append. It pins what the engine tells the sampler: choice, position, counts, banned tokens.

#include <algorithm>

#include "engine/batch_builder.h"
#include "harness.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

class PlainLoop {
 public:
  PlainLoop() : runner_(SmallRunner()), sampler_(kVocabSize) {
    EXPECT_FALSE(runner_.AllocateKv(kNumPages).has_value());
  }

  // The token drawn after `generated` tokens of a choice.
  SampleResult Next(const Request& request, int32_t choice, const std::vector<int32_t>& generated) {
    const SamplingParams& sampling = request.sampling;
    std::vector<int32_t> tokens = request.prompt_ids;
    tokens.insert(tokens.end(), generated.begin(), generated.end());
    TokenCounts counts;
    for (const int32_t token_id : generated) {
      ++counts.generated[token_id];
    }
    for (const int32_t token_id : request.prompt_ids) {
      ++counts.prompt[token_id];
    }
    const auto position = static_cast<int32_t>(generated.size());
    std::vector<int32_t> banned;
    if (position < sampling.min_tokens) {
      banned = sampling.stop_token_ids;
      if (!sampling.ignore_eos) {
        banned.push_back(kEos);
      }
    }
    return sampler_.Sample(Logits(tokens), sampling, counts, choice, position, banned);
  }

 private:
  static constexpr int32_t kNumPages = 32;

  const float* Logits(const std::vector<int32_t>& tokens) {
    Sequence sequence;
    sequence.request = std::make_shared<const Request>();
    sequence.tokens = tokens;
    for (PageId page = 0; page < kNumPages; ++page) {
      sequence.pages.push_back(page);
    }
    Batch batch;
    batch.entries = {{&sequence, 0, sequence.length(), true}};
    ModelInput input;
    BuildModelInput(batch, SmallConfig().page_size, &input);
    return runner_.Run(input).data;
  }

  FakeRunner runner_;
  Sampler sampler_;
};

TEST(TokensAreThoseOfThePlainLoop) {
  constexpr int32_t kNumRequests = 300;
  Harness harness;
  PlainLoop plain;
  for (const Request& request : RandomRequests(21, kNumRequests)) {
    harness.Submit(request);
  }
  harness.RunToEnd();
  for (const Request& request : RandomRequests(21, kNumRequests)) {
    for (int32_t choice = 0; choice < request.num_choices; ++choice) {
      const Outcome& outcome = harness.outcome(request.id, choice);
      std::vector<int32_t> generated;
      for (const int32_t token_id : outcome.token_ids) {
        const SampleResult drawn = plain.Next(request, choice, generated);
        EXPECT_EQ(token_id, drawn.token_id);
        if (request.sampling.top_logprobs >= 0) {
          EXPECT_EQ(outcome.logprobs[generated.size()].token.logprob, drawn.logprob.logprob);
        }
        generated.push_back(token_id);
      }
    }
  }
}

}  // namespace
}  // namespace mlc_server::testing
