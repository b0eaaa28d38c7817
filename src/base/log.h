// One line per message to stderr, with the rank in front if there are several. stdout is kept for results.
#pragma once

#include <string>

namespace roundtable {

// Sets the prefix of every later line of this process ("" for one rank, "rank 3: " otherwise).
void set_log_prefix(const std::string& prefix);

void log_info(const std::string& line);
void log_warning(const std::string& line);
void log_error(const std::string& line);

}  // namespace roundtable
