// What the C functions hand out pointers to.
#pragma once
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

struct MaeProcessGroup {
  c10::intrusive_ptr<c10d::ProcessGroup> group;
};
