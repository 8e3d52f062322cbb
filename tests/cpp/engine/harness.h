#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "model/fake_runner.h"

namespace mlc_server::testing {

inline constexpr int32_t kVocabSize = 256;
inline constexpr int32_t kEos = 0;     // special, stands for no text
inline constexpr int32_t kPoison = 1;  // never drawn (biased away); NaN logits where it stands

// Everything reported of one choice.
struct Outcome {
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<TokenLogprobs> logprobs;
  std::vector<TokenLogprobs> prompt_logprobs;
  FinishReason finish_reason = FinishReason::kNone;
  int32_t stop_token_id = -1;
  std::string stop_string;
  std::string error;
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t num_ends = 0;  // items with a finish reason: must become 1

  void Add(const OutputItem& item);
};

bool Equal(const std::vector<TokenLogprobs>& a, const std::vector<TokenLogprobs>& b);
bool operator==(const Outcome& a, const Outcome& b);
std::ostream& operator<<(std::ostream& out, const Outcome& outcome);

using Outcomes = std::map<std::pair<RequestId, int32_t>, Outcome>;

// Token i below 128 stands for the character i; from 128 on for that single byte, which alone is
// no character. kEos is special.
std::shared_ptr<const Vocabulary> MakeVocabulary();

EngineConfig SmallConfig();       // pages of 4 tokens, checks after every step
FakeRunnerOptions SmallRunner();  // fits SmallConfig()

// A single-threaded engine on a FakeRunner, and what has come out of it.
class Harness {
 public:
  explicit Harness(const EngineConfig& config = SmallConfig(),
                   const FakeRunnerOptions& options = SmallRunner(),
                   std::shared_ptr<const Clock> clock = std::make_shared<SteadyClock>());

  Engine& engine() { return *engine_; }
  const FakeRunner& runner() const { return *runner_; }

  // Submits; a refusal fails the test.
  void Submit(const Request& request);
  Engine::StepOutcome Step();
  // Steps until nothing is left to do. More than `max_steps` fail the test.
  void RunToEnd(int64_t max_steps = 1'000'000);
  const Outcomes& outcomes() const { return outcomes_; }
  const Outcome& outcome(RequestId request_id, int32_t choice = 0) const;
  // Every page is free and no request is open.
  void ExpectIdle();

 private:
  std::shared_ptr<FakeRunner> runner_;
  std::unique_ptr<Engine> engine_;
  Outcomes outcomes_;
};

// A request for `max_tokens` greedy tokens after `prompt_ids`, EOS ignored.
Request GreedyRequest(RequestId id, std::vector<int32_t> prompt_ids, int32_t max_tokens);

// Requests of every kind: greedy and sampled, penalties, bias, n, logprobs of output
// and prompt, stops, priorities. The
// same `seed` gives the same requests; ids are 1 to `count`.
std::vector<Request> RandomRequests(uint64_t seed, int32_t count);

}  // namespace mlc_server::testing
