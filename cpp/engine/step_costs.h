#pragma once

#include <cstdint>
#include <vector>

namespace mlc_server {

// What a decode step costs by its number of rows, in steps of one row: learned from the steps that
// run, since it depends on the machine. Where weights stream from memory a few rows cost hardly
// more than one; where arithmetic is slow, nearly as much as so many steps.
class StepCosts {
 public:
  // Knows steps of up to `rows_max` rows.
  explicit StepCosts(int32_t rows_max);

  // A step of `rows` took so long. Steps of more rows than are known, and of no time, are ignored.
  void Note(int32_t rows, int64_t step_ns);
  // Of a step of 1 to rows_max rows; never less than one of fewer rows.
  double Cost(int32_t rows) const;
  // What `added` rows add to a step of `rows`, in shares of its rows: 1 is as much as each of
  // them costs. `rows` and `added` are together at most rows_max.
  double CostOfMore(int32_t rows, int32_t added) const;

 private:
  struct Entry {
    double cost = 1;
    bool is_known = false;
  };

  std::vector<Entry> by_rows_;  // [rows]
  double one_row_ns_ = 0;       // 0 until the first step
};

}  // namespace mlc_server
