// One build of the kernel, as a table.

#include "build.hpp"

namespace igc::IGC_BUILD {

extern const Kernel kernel;
const Kernel kernel = {IGC_NAME, fwht, project, add_expanded, partition_project, partition_add_expanded, flip, words};

}  // namespace igc::IGC_BUILD
